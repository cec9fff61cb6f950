#!/usr/bin/env bash
# Installs what requirements-monailabel.txt pins into an environment of its own and runs the tests of the MONAI Label
# app there. Run it before every change to monailabel_app/, scripts/monai_label/ or the configs. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."

environment=${MONAILABEL_ENVIRONMENT:-tests/monailabel/.venv}
if [ ! -x "$environment/bin/python" ]; then
  "$(command -v python3.11 || command -v python3)" -m venv "$environment"
fi
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements-monailabel.txt

# A torchvision of another build than torch's does not import; MONAI Label's part of it is not used here.
if ! "$environment/bin/python" -c "import torchvision" 2> /dev/null; then
  export PYTHONPATH="$PWD/tests/monailabel/stand_in${PYTHONPATH:+:$PYTHONPATH}"
fi
# MONAI Label imports the bundle from the first test's copy, from which later tests import further modules: copies stay.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} "$environment/bin/python" -m pytest -o tmp_path_retention_policy=all \
  tests/monailabel tests/monai_label "$@"
