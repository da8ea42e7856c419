"""What every section of a run's configuration is made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
LayerChoice = Literal["all"] | tuple[NonNegative, ...]


class Strict(BaseModel):
    """A section that cannot change, and in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MethodConfig(Strict):
    """What is chosen by a method's name; other keys are that method's own parameters. A name alone
    is a method without parameters."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    method: str

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_a_method(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    @property
    def parameters(self) -> dict[str, Any]:
        """Of the method, by name."""
        return dict(self.model_extra or {})
