# SPDX-License-Identifier: Apache-2.0
"""What a client asks over REST is checked before MONAI Label acts on it, and every refusal is a sentence.

The routes here stand before MONAI Label's own at the same addresses, check the request and then call its functions.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import deque
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, Response
from monailabel.config import settings as monai_label
from monailabel.endpoints import batch_infer, datastore, infer, scoring, train
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.utils.async_tasks.utils import background_tasks as tasks_by_kind
from monailabel.utils.async_tasks.utils import processes
from requests_toolbelt import MultipartDecoder, MultipartEncoder
from requests_toolbelt.multipart.decoder import BodyPart

from scripts.data import DataError

from .infer import MAPS, check_scan
from .labels import SCRIBBLES

if TYPE_CHECKING:
    from main import DualSegApp

ADMIN = Depends(RBAC(monai_label.MONAI_LABEL_AUTH_ROLE_ADMIN))
ANNOTATOR = Depends(RBAC(monai_label.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
USER = Depends(RBAC(monai_label.MONAI_LABEL_AUTH_ROLE_USER))

SET_BY_THE_SERVER = frozenset({"image", "label", "model", "session", "session_id"})
"""Keys of a segmentation that no client may put among its parameters: they would name files of the server."""


def install(server: FastAPI, app: DualSegApp) -> None:
    """Put the checks in front of a server that has just been started (ours).

    Args:
        server: MONAI Label's.
        app: what it serves.
    """
    theirs = list(server.router.routes)
    server.include_router(_routes(app))
    ours = server.router.routes[len(theirs) :]
    server.router.routes[:] = ours + theirs
    for kind, answer in ANSWERS.items():
        server.add_exception_handler(kind, answer)
    server.middleware_stack = None  # Starlette builds it anew, with these handlers, at the next request


async def _answer_monai_label(request: Request, error: MONAILabelException) -> JSONResponse:
    absent = isinstance(error, ImageNotFoundException | LabelNotFoundException)
    status = 404 if absent else 400 if error.error == MONAILabelError.INVALID_INPUT else 422
    return JSONResponse({"detail": error.msg}, status)


async def _answer_data_error(request: Request, error: DataError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


async def _answer_no_json(request: Request, error: json.JSONDecodeError) -> JSONResponse:
    return JSONResponse({"detail": f"This is no JSON: {error}."}, 400)


async def _answer_failure(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"The server failed ({type(error).__name__}: {error}); its log says where."}, 500)


ANSWERS = {
    MONAILabelException: _answer_monai_label,
    ImageNotFoundException: _answer_monai_label,
    LabelNotFoundException: _answer_monai_label,
    DataError: _answer_data_error,
    json.JSONDecodeError: _answer_no_json,
    Exception: _answer_failure,
}


def _routes(app: DualSegApp) -> APIRouter:
    router = APIRouter()
    for part in (_segmentations, _trainings, _data):
        part(router, app)
    return router


def _segmentations(router: APIRouter, app: DualSegApp) -> None:
    @router.post("/infer/{model}", summary="Segment a scan", tags=["Infer"])
    async def segment(
        background_tasks: BackgroundTasks,
        model: str,
        image: str = "",
        session_id: str = "",
        params: Annotated[str, Form()] = "{}",
        file: Annotated[UploadFile | None, File()] = None,
        label: Annotated[UploadFile | None, File()] = None,
        output: infer.ResultType | None = None,
        user: User = USER,
    ) -> Any:
        options = _read_params(params)
        if named := sorted(SET_BY_THE_SERVER & set(options)):
            raise HTTPException(400, f"{', '.join(named)} may not stand in params. Name the scan in ?image=.")
        if "label_tag" in options:
            _check_tag(options["label_tag"])
        if image or not (file or session_id):
            _check_image(app, image)
        if session_id and not (app.sessions() and app.sessions().get_session(session_id)):
            raise HTTPException(404, f"No session {session_id!r}: it may have expired. Start a new one.")
        if options.get("uncertainty") in list(MAPS) and not (image and output in (None, infer.ResultType.all)):
            raise HTTPException(400, "uncertainty: a second volume comes with ?image=SCAN and output=all only.")
        answer = infer.run_inference(background_tasks, model, image, session_id, params, file, label, output)
        second = app.uncertainty({**options, "model": model, "image": image}) if image else None
        return answer if second is None else _with_second_volume(answer, second, background_tasks)

    @router.post("/infer/wsi/{model}", include_in_schema=False)
    def segment_slide(model: str, user: User = USER) -> None:
        raise HTTPException(404, "This app has no model for whole slides.")

    @router.post("/batch/infer/{model}", summary="Save a proposal for every scan", tags=["Infer"])
    def propose(
        model: str,
        images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
        params: dict | None = None,
        run_sync: bool = False,
        user: User = ADMIN,
    ) -> Any:
        app.refuse_infer(model, params or {})
        _check_tag((params or {}).get("label_tag", "original"))
        return batch_infer.run(model, images, {"logging": "WARNING", "save_label": True, **(params or {})}, run_sync)

    @router.post("/scoring/{method}", summary="Score the scans without a label", tags=["Scoring"])
    def score(method: str, params: dict | None = None, run_sync: bool = False, user: User = ANNOTATOR) -> Any:
        app.refuse_method(method)
        return scoring.run_method(method, params, run_sync)


def _trainings(router: APIRouter, app: DualSegApp) -> None:
    @router.post("/train/{model}", summary="Train, or put another model in use", tags=["Train"])
    def start(
        model: str, params: dict | None = None, run_sync: bool = False, enqueue: bool = False, user: User = ADMIN
    ) -> Any:
        trainer, options = app.trainer(model), dict(params or {})
        if options.get("model", model) != model:
            raise HTTPException(400, f"model {options['model']!r} in the options, but {model!r} in the address.")
        if (name := trainer.chosen_model(options)) is not None:
            return _note_done("train", {"model": model, **options}, trainer.put_in_use(name))
        trainer.refuse(options, app.datastore())
        if problems := app.label_checks.problems(app.datastore()):
            count = f"{len(problems)} labels cannot be trained on: " if len(problems) > 1 else ""
            raise HTTPException(400, count + " ".join(problems[: DataError.SHOWN]))
        return train.run_model(model, params, run_sync, enqueue)

    @router.post("/train/", include_in_schema=False)
    def start_all(user: User = ADMIN) -> None:
        raise HTTPException(400, f"Name the model: POST /train/{app.settings.name}.")

    @router.get("/train/", summary="How far the newest training is, its time and its Dice", tags=["Train"])
    def status(all: bool = False, check_if_running: bool = False, user: User = USER) -> Any:
        found = train.status(all, check_if_running)
        return found if all else {**found, "stats": app.trainer(found["request"]["model"]).stats()}

    @router.delete("/train/", summary="Stop the training, and keep its best model so far", tags=["Train"])
    def stop(user: User = ADMIN) -> Any:
        running = list(processes("train").values())
        task = train.stop()
        if task is None:
            return None
        for process in running:
            process.wait(timeout=60)
        note = app.trainer(task["request"]["model"]).keep_stopped(task["request"])
        task["details"] = deque([*task.get("details", ()), note], maxlen=20)
        return {**task, "note": note}

    @router.put("/model/{model}", include_in_schema=False)
    @router.delete("/model/{model}", include_in_schema=False)
    def change_model(model: str, user: User = ADMIN) -> None:
        raise HTTPException(
            403,
            f'Models come from trainings and stay. Put another in use with POST /train/{model} {{"use_model": NAME}}.',
        )


def _data(router: APIRouter, app: DualSegApp) -> None:
    @router.put("/datastore/label", summary="Submit a label", tags=["Datastore"])
    def save_label(
        background_tasks: BackgroundTasks,
        image: str,
        label: Annotated[UploadFile, File()],
        params: Annotated[str, Form()] = "{}",
        tag: str = "final",
        user: User = ANNOTATOR,
    ) -> Any:
        options = _read_params(params)
        tag = tag or "final"
        _check_tag(tag)
        _check_image(app, image)
        with TemporaryDirectory() as folder:
            file = _save_upload(label, Path(folder))
            scan = app.datastore().get_image_uri(image)
            with app.label_checks.checked(file, scan, options, image) as found, found.file.open("rb") as content:
                options |= {SCRIBBLES: found.scribbles, **({"note": found.note} if found.note else {})}
                sound = UploadFile(content, filename=f"label{''.join(found.file.suffixes)}")
                answer = datastore.save_label(background_tasks, image, json.dumps(options), tag, sound, user.username)
        app.label_checks.note_sound(app.datastore().get_label_uri(answer["label"], tag))
        return {**answer, "note": found.note} if found.note else answer

    @router.put("/datastore/image", summary="Add a scan", tags=["Datastore"])
    @router.put("/datastore/", include_in_schema=False)
    def add_image(
        background_tasks: BackgroundTasks,
        file: Annotated[UploadFile, File()],
        image: str | None = None,
        params: Annotated[str, Form()] = "{}",
        user: User = ANNOTATOR,
    ) -> Any:
        _read_params(params)
        if image and not re.fullmatch(r"[^\\/\0.][^\\/\0]*", image):
            raise HTTPException(400, f"image {image!r}: becomes a file's name, so no slash and no dot at its start.")
        with TemporaryDirectory() as folder:
            saved = _save_upload(file, Path(folder))
            try:
                check_scan(str(saved), None)
            except DataError as error:
                raise HTTPException(422, str(error).replace(str(saved), "The scan")) from error
        file.file.seek(0)
        return datastore.add_image(background_tasks, image, params, file, user.username)

    @router.delete("/datastore/label", summary="Remove a label", tags=["Datastore"])
    def remove_label(id: str, tag: str, user: User = ADMIN) -> Any:
        if not app.datastore().get_label_uri(id, tag):
            raise HTTPException(404, f"No label {id!r} with the tag {tag!r}.")
        return datastore.remove_label(id, tag, user.username)

    @router.get("/datastore/dataset", summary="Download scans and labels", tags=["Datastore"])
    def download(limit_cases: int | None = None, user: User = ANNOTATOR) -> Any:
        if not app.datastore().get_labeled_images():
            raise HTTPException(404, "No scan has a final label yet: there is nothing to download.")
        return datastore.download_dataset(limit_cases)


def _with_second_volume(answer: Response, file: str, later: BackgroundTasks) -> Response:
    """An answer of a segmentation with the map of uncertainty as a further part, ``uncertainty``."""
    later.add_task(os.unlink, file)
    parts = MultipartDecoder(answer.body, answer.headers["content-type"]).parts
    fields = [_read_part(part) for part in parts]
    fields.append(("uncertainty", (os.path.basename(file), Path(file).read_bytes(), infer.get_mime_type(file))))
    message = MultipartEncoder(fields=fields)
    return Response(content=message.to_string(), media_type=message.content_type)


def _read_part(part: BodyPart) -> tuple[str, tuple]:
    """Name, file name, content and type of a part of an answer."""
    disposition = part.headers[b"Content-Disposition"].decode()
    names = dict(re.findall(r'(name|filename)="([^"]*)"', disposition))
    return names["name"], (names.get("filename"), part.content, part.headers[b"Content-Type"].decode())


def _read_params(params: str) -> dict[str, Any]:
    options = json.loads(params) if params else {}
    if not isinstance(options, dict):
        raise HTTPException(400, "params: give an object, such as {}.")
    return options


def _check_tag(tag: Any) -> None:
    if not isinstance(tag, str) or not re.fullmatch(r"\w[\w-]*", tag):
        raise HTTPException(400, f"tag {tag!r}: becomes a folder's name. Use letters, digits, '_' and '-'.")


def _check_image(app: DualSegApp, image: str) -> None:
    if image not in app.datastore().list_images():
        raise HTTPException(404, f"No scan {image!r} among the studies. Reload the list of scans.")


def _save_upload(upload: UploadFile, folder: Path) -> Path:
    """Write an uploaded file under a name of ours with its suffixes; it can be read again after."""
    suffixes = "".join(Path(os.path.basename(upload.filename or "")).suffixes[-2:]) or ".nii.gz"
    path = folder / f"upload{suffixes}"
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file)
    return path


def _note_done(kind: str, request: dict[str, Any], sentence: str) -> dict[str, Any]:
    """A task that is done already, where clients look for it."""
    now = datetime.today().strftime("%Y-%m-%d %H:%M:%S")
    task = {"id": str(uuid4()), "status": "DONE", "request": request, "start_ts": now, "end_ts": now}
    task["details"] = deque([sentence], maxlen=20)
    tasks_by_kind.setdefault(kind, []).append(task)
    return task
