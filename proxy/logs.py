"""The log, on standard error: standard output stays clean."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_PLAIN = re.compile(r"[!#-<>-~]+")
"""What needs no quotes: printable ASCII without space, quote and equals sign."""


def configure_logs(least: int, log_format: Literal["text", "json"] = "text") -> None:
    """Logs of `least` level and above go to standard error.

    Warnings and errors of libraries go there too, in the same form. Tracebacks show no local
    variables.
    """
    common: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    last: Processor
    if log_format == "text" and sys.stderr.isatty():
        last = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    else:
        common.append(structlog.processors.format_exc_info)
        last = _as_text if log_format == "text" else structlog.processors.JSONRenderer(default=str)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(least),
        processors=[*common, last],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # a line is one write
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _as_text(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """As `structlog.dev.ConsoleRenderer` writes without colours, which takes 40 us of a line with
    eight values; this takes 4. Each tunnel's end is a line."""
    traceback = event.pop("exception", None)
    line = f"{event.pop('timestamp')} [{event.pop('level'):<8}] {event.pop('event')}"
    for name, value in event.items():
        text = str(value)
        if not _PLAIN.fullmatch(text):
            text = json.dumps(text)
        line += f" {name}={text}"
    return line if traceback is None else f"{line}\n{traceback}"
