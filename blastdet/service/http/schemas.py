"""Bodies of requests and answers, as OpenAPI describes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt

from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import ScaleError, shown
from blastdet.core.mpp import parse_mpp
from blastdet.service.store.schema import Job, Smear
from blastdet.service.store.smears import Access

_NO_CONTROL = r"^[^\x00-\x1f\x7f]*$"
Name = Annotated[str, Field(min_length=1, max_length=150, pattern=_NO_CONTROL)]
Status = Literal["new", "reviewed", "signed"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Failure(BaseModel):
    """Any error."""

    error: str = Field(description="one line: what was expected, what was found, what to do")


class SmearOut(BaseModel):
    """A smear in the worklist."""

    id: str
    name: str
    sha256: str
    bytes: int
    width: int
    height: int
    mpp: tuple[float, float] | None = Field(description="as the file states it")
    notes: list[str]
    status: Status
    reviewed_by: str
    reviewed: str | None
    created: str
    may: Literal["read", "write", "owner"] = Field(description="what you may do with it")
    last_analysis: str | None = Field(description="id of the result that was reviewed or signed, else the newest")
    notice: str = RESEARCH_USE

    @classmethod
    def of(cls, access: Access, last_analysis: str | None) -> SmearOut:
        """From its row."""
        smear: Smear = access.smear
        fields = ("id", "name", "sha256", "width", "height", "notes", "reviewed_by", "reviewed", "created")
        mpp = None if smear.mpp is None else (smear.mpp[0], smear.mpp[1])
        values: dict[str, Any] = {name: getattr(smear, name) for name in fields}
        values |= {"status": smear.status, "bytes": smear.n_bytes, "mpp": mpp, "may": access.may}
        return cls(**values, last_analysis=smear.analysis_id or last_analysis)


class SmearList(BaseModel):
    """One page of the worklist."""

    items: list[SmearOut]
    next: str | None = Field(description="pass it as `after` for the next page")


class WorklistQuery(BaseModel):
    """Which smears a page of the worklist shows."""

    status: Status | None = None
    name: Annotated[str, Field(max_length=150, pattern=_NO_CONTROL, description="part of it")] | None = None
    analyzed: bool | None = None
    limit: int = Field(50, ge=1, le=200)
    after: Annotated[str, Field(pattern="^[0-9TZ:.-]{27}_[0-9a-f]{32}$", description="`next` of a page")] | None = None


class SmearChange(_Strict):
    """What may be changed of a smear."""

    name: Name | None = None
    status: Status | None = None
    analysis: str | None = Field(
        None,
        pattern="^[0-9a-f]{32}$",
        description="result you looked at; needed with reviewed and signed if the smear has one",
    )
    version: StrictInt | None = Field(
        None, ge=0, description="of that result, needed with it; 412 if it was corrected since"
    )


class ShareIn(_Strict):
    """What another user may do with a smear."""

    may: Literal["read", "write"] = "read"


class ShareOut(BaseModel):
    """A user a smear is shared with."""

    user: str
    may: Literal["read", "write"]


def _scale(value: Any) -> Any:
    """`parse_mpp`, whose line says more than one line for each form that a scale may have."""
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) > 2 or any(isinstance(one, (list, dict)) for one in numbers):
        raise ValueError(f"expected a number, two numbers or 'auto' as µm/px, got {shown(value)}")
    try:
        return parse_mpp(value)
    except ScaleError as error:
        raise ValueError(str(error).removeprefix("mpp: ")) from None


class AnalysisIn(_Strict):
    """What to compute; equal requests give the same job and the same result."""

    weights: Annotated[str, Field(min_length=1, max_length=100, description="name of a model, see /models")] = "default"
    mpp: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | tuple[float, float] | Literal["auto"] | None,
        BeforeValidator(_scale),
        Field(description="µm per pixel; none: as the file states, else measured; auto: measured"),
    ] = None
    min_score: Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)] = None
    region: Annotated[
        Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=4, max_length=4)] | None,
        Field(description="x1, y1, x2, y2 in pixels; none: all of it"),
    ] = None


class JobOut(BaseModel):
    """A job."""

    id: str
    smear: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    done: int = Field(description="tiles")
    total: int
    seconds_left: float | None
    error: str
    analysis: str | None = Field(description="id of the result")
    weights: str
    attempts: int
    created: str
    started: str | None
    finished: str | None

    @classmethod
    def of(cls, job: Job) -> JobOut:
        """From its row."""
        same = ("id", "state", "done", "total", "seconds_left", "error", "weights", "attempts")
        times = ("created", "started", "finished")
        values: dict[str, Any] = {name: getattr(job, name) for name in (*same, *times)}
        return cls(**values, smear=job.smear_id, analysis=job.analysis_id)


class AnalysisOut(BaseModel):
    """A result without its cells."""

    id: str
    smear: str
    weights: str
    request: dict[str, Any]
    version: int = Field(description="goes up with each correction; the ETag")
    created: str
    seconds: float
    corrected: bool = Field(description="whether the counts follow corrections")
    summary: dict[str, Any] = Field(description="the JSON document of `blastdet detect` without its cells")
    links: dict[str, str]
    notice: str = RESEARCH_USE


class AnalysisList(BaseModel):
    """Results of a smear, the newest first."""

    items: list[AnalysisOut]


class JobList(BaseModel):
    """Jobs, the newest first."""

    items: list[JobOut]


class CorrectionsIn(_Strict):
    """Lines of corrections.jsonl as objects; who and when are set by the service."""

    corrections: list[dict[str, Any]] = Field(min_length=1, max_length=20_000)


class CorrectionsOut(BaseModel):
    """The history of an analysis."""

    version: int
    corrections: list[dict[str, Any]]
    next: str | None = Field(None, description="pass it as `after` for the next page")


class CorrectionsMade(BaseModel):
    """What was appended to the history of an analysis."""

    version: int
    count: int = Field(description="corrections in the whole history")
    corrections: list[dict[str, Any]] = Field(description="those that were appended, with who and when")


class Credentials(_Strict):
    """A log-in."""

    name: str = Field(min_length=1, max_length=100)
    password: str = Field(min_length=1, max_length=1000)


class PasswordChange(_Strict):
    """Another password for the one who is logged in."""

    old: str = Field(min_length=1, max_length=1000, description="the one of now")
    new: str = Field(min_length=8, max_length=1000)


class SessionOut(BaseModel):
    """Who asks."""

    auth: str = Field(description="how users are known: none, users or proxy")
    user: str | None
    is_admin: bool
    csrf: str = Field(description="send it as x-csrf-token with every request that changes something")
    version: str
    notice: str = RESEARCH_USE


class TokenIn(_Strict):
    """A new API token."""

    name: Annotated[Name, Field(max_length=100)]
    scope: Literal["read", "write", "detect"] = "write"
    days: float | None = Field(90, gt=0, le=3650, allow_inf_nan=False, description="none: it never expires")


class TokenOut(BaseModel):
    """An API token; its text is shown once."""

    id: str
    name: str
    scope: str
    made_with: str | None = Field(description="id of the token that it was made with, and is revoked with")
    created: str
    expires: str | None
    token: str | None = None


class AuditLine(BaseModel):
    """One line of the audit log."""

    id: str
    time: str
    user_id: str | None
    user: str | None = Field(description="name, while there is such a user")
    action: str
    subject: str = Field(description="id of what it was done to")
    smear: str | None = Field(description="id of the smear that this is, or is of")
    address: str
    detail: dict[str, Any]


class ModelOut(BaseModel):
    """A model that the service offers."""

    name: str
    sha256: str
    mpp: float
    stages: list[dict[str, Any]]
    intended_use: str


class UploadOut(BaseModel):
    """A resumable upload."""

    id: str
    offset: int
    length: int
    smear: str | None
