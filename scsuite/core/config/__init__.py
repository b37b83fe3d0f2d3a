"""All options of the suite, each defined once: frozen dataclasses, checked when they are made."""

from scsuite.core.config.commands import (
    CAM_METHOD,
    CAM_METHODS,
    LR_POLICIES,
    SELECTIONS,
    TTA_MODES,
    CheckpointConfig,
    EvaluateConfig,
    GradcamConfig,
    NetworkConfig,
    PredictConfig,
    ReportConfig,
    ZigzagConfig,
)
from scsuite.core.config.fields import GROUPS, OUTPUT, Config, base_type, flag_name, is_finite_number, parse_number
from scsuite.core.config.recipe import (
    BACKENDS,
    DATA_SOURCES,
    FITS,
    FLIPS,
    MAX_WIDTH,
    MOMENTUM,
    MOMENTUM_MAX,
    MOMENTUM_MIN,
    PRECISIONS,
    RECIPES,
    RESULT_NEUTRAL_OPTIONS,
    ComputeConfig,
    DataConfig,
    RecipeConfig,
)
from scsuite.core.config.training import (
    MAX_PLOTTED_STEPS,
    MAX_TEMPERATURE,
    MIN_RANGE_TEST_STEPS,
    MIN_TEMPERATURE,
    LrRangeConfig,
    TrainCommandConfig,
    TrainConfig,
    resolve_peak_epoch,
)

__all__ = [
    "BACKENDS", "CAM_METHOD", "CAM_METHODS", "DATA_SOURCES", "FITS", "FLIPS", "GROUPS", "LR_POLICIES",
    "MAX_PLOTTED_STEPS", "MAX_TEMPERATURE", "MAX_WIDTH", "MIN_RANGE_TEST_STEPS", "MIN_TEMPERATURE", "MOMENTUM",
    "MOMENTUM_MAX", "MOMENTUM_MIN", "OUTPUT", "PRECISIONS", "RECIPES", "RESULT_NEUTRAL_OPTIONS", "SELECTIONS",
    "TTA_MODES", "CheckpointConfig", "ComputeConfig", "Config", "DataConfig", "EvaluateConfig", "GradcamConfig",
    "LrRangeConfig", "NetworkConfig", "PredictConfig", "RecipeConfig", "ReportConfig", "TrainCommandConfig",
    "TrainConfig", "ZigzagConfig", "base_type", "flag_name", "is_finite_number", "parse_number", "resolve_peak_epoch",
]  # fmt: skip
