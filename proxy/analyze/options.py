"""How recordings are to be played."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from proxy.audio.algorithms import INSTALLED
from proxy.audio.settings import AudioSettings
from proxy.control.flags import Algorithms
from proxy.errors import ConfigError
from proxy.values import LayoutRule, parse_layout_rules


class Options(BaseModel):
    """The options of the command line, by their names there."""

    model_config = ConfigDict(frozen=True)

    chunk_size: tuple[int, ...]
    """Bytes of each message."""
    accept: Algorithms
    """By the client, in its order of preference."""
    pcm_layout: Annotated[tuple[LayoutRule, ...], BeforeValidator(parse_layout_rules)] = ()
    """Of raw samples, by the file's path; the first that matches counts."""
    opus_bitrate: int
    opus_raw: bool

    @classmethod
    def parse(cls, **values: Any) -> Options:
        """Read what was typed; None is as if it were not. Raises ConfigError."""
        given = {name: value for name, value in values.items() if value is not None}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from error

    @property
    def chunk_sizes(self) -> tuple[int, ...]:
        """Each once."""
        return tuple(dict.fromkeys(self.chunk_size))

    @property
    def readings(self) -> int:
        """How often a file is read."""
        return len(self.chunk_sizes) * (len(INSTALLED) + 2)

    def settings(self, path: Path) -> AudioSettings:
        """For the connection that a file stands for."""
        rules = (rule.layout for rule in self.pcm_layout if fnmatchcase(str(path), rule.pattern))
        return AudioSettings(
            pcm_layout=next(rules, None),
            opus_bitrate=self.opus_bitrate,
            opus_raw=self.opus_raw,
        )


def _explain(problem: Any) -> str:
    name = str(problem["loc"][0]).replace("_", "-")
    return f"--{name}: {problem['msg'].removeprefix('Value error, ')}"
