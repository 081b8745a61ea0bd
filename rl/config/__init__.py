"""Configuration: its schema, reading it, and comparing two. Nothing here imports torch: a mistyped option is
refused at once.
"""

from rl.config.compare import MISSING, Change, bucket, compare, leaves, same
from rl.config.keys import (
    FREE,
    FROZEN,
    HORIZON,
    NUMERICS,
    ONE_WAY,
    SCHEDULE,
    ConfigError,
    Key,
    fields,
    install_line,
)
from rl.config.read import did_you_mean, fill_in, read_config, typed
from rl.config.schema import (
    TARGETS,
    EnjoyConfig,
    EnvConfig,
    ExportConfig,
    ReportConfig,
    RunConfig,
    SearchConfig,
)

__all__ = [
    "FREE",
    "FROZEN",
    "HORIZON",
    "MISSING",
    "NUMERICS",
    "ONE_WAY",
    "SCHEDULE",
    "TARGETS",
    "Change",
    "ConfigError",
    "EnjoyConfig",
    "EnvConfig",
    "ExportConfig",
    "Key",
    "ReportConfig",
    "RunConfig",
    "SearchConfig",
    "bucket",
    "compare",
    "did_you_mean",
    "fields",
    "fill_in",
    "install_line",
    "leaves",
    "read_config",
    "same",
    "typed",
]
