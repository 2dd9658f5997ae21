"""Configurations of batches."""

from bigbatch_ue.config.schema import Config


def config_of(effective: int, **batch: object) -> Config:
    return Config.model_validate(
        {"batch": {"effective": effective, **batch}, "clusters": {"count": 3}}
    )
