"""Access logs as a node's `logging` asks for them."""

from __future__ import annotations

import functools
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import substitution_format_string_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2

from meshca.envoy.resources import packed
from meshca.mesh.spec.transport import LogFile, LogFormat, Logging

FILE_LOG = "envoy.access_loggers.file"


def access_log(logging: Logging | None) -> tuple[Any, ...]:
    """Return the access loggers of a node: one, or none."""
    if logging is None or logging.access_log is None or logging.access_log.file is None:
        return ()
    return (_file_log(logging.access_log.file),)


@functools.lru_cache(maxsize=256)
def _file_log(file: LogFile) -> Any:
    message = file_pb2.FileAccessLog(path=file.path)
    if file.format is not None:
        message.log_format.CopyFrom(_format(file.format))
    return accesslog_pb2.AccessLog(name=FILE_LOG, typed_config=packed(message))


def _format(written: LogFormat) -> Any:
    line = substitution_format_string_pb2.SubstitutionFormatString()
    if written.text is not None:
        # Envoy adds no line end to a text format, App Mesh's users wrote none.
        line.text_format_source.inline_string = written.text.rstrip("\n") + "\n"
    else:
        line.json_format.update({field.key: field.value for field in written.json_ or ()})
    return line
