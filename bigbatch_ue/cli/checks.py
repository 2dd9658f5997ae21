"""Checks of what a command is given, made before torch is imported, which takes seconds."""

from collections.abc import Sequence
from pathlib import Path

from bigbatch_ue.config.load import revise_evaluation
from bigbatch_ue.config.names import OWN_IMAGES
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.datasets import require_source
from bigbatch_ue.evaluation.external_images import external_path
from bigbatch_ue.runs.folder import RunFiles, load_run
from bigbatch_ue.runs.trackers import require_trackers
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.spec import SweepSpec, base_config


def require_images(config: Config, download: bool) -> None:
    """Check that the images of a configuration are where they should be.

    Raises:
        UserError: as for `require_source`.
    """
    require_source(config.data, download=download)


def require_training(config: Config, download: bool) -> None:
    """Check that the images of a configuration are at hand, and that its trackers are installed.

    Raises:
        UserError: as for `require_images`, or a tracker is not installed.
    """
    require_trackers(config.tracking)
    require_images(config, download)


def require_own_images(config: Config, preset: str | None) -> None:
    """Check that images are named, if the preset is for those of the user.

    Raises:
        UserError: they are not; the default would be another data set.
    """
    if preset in OWN_IMAGES and "name" not in config.data.model_fields_set:
        raise UserError(
            f"--preset {preset}: is for your own images; name them, such as data.name=folder:PATH"
        )


def require_run(
    folder: Path,
    place: str | None,
    download: bool,
    target: str | None = None,
    overrides: Sequence[str] = (),
) -> Config:
    """Check that `folder` contains a finished run, whose images are at hand.

    Args:
        folder: of the run.
        place: where its images are now, such as `folder:PATH`; None if they have not moved.
        download: whether a data set that is missing will be fetched.
        target: preset of the target network, for an evaluation.
        overrides: settings of an evaluation.

    Returns:
        The settings of the run, revised for the evaluation.

    Raises:
        UserError: it does not; an invalid setting; or the images are missing.
    """
    config, _ = load_run(folder, place)
    config = revise_evaluation(config, target, overrides)
    try:
        require_images(config, download)
    except UserError as error:
        if place is not None or config.data.has_name:
            raise
        kind = config.data.name.partition(":")[0]
        raise UserError(
            f"{error}; if the images of the run have moved, add --data {kind}:PATH"
        ) from None
    return config


def require_protector(
    folder: Path, paths: Sequence[Path], place: str | None, download: bool
) -> None:
    """Check that `folder` may be an export or a finished run, and that `paths` exist.

    Raises:
        UserError: as for `require_run`, or a path does not exist.
    """
    for path in (folder, *paths):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; check the path")
    if RunFiles(folder).config.exists():
        require_run(folder, place, download)


def require_external(config: Config, location: str, download: bool) -> None:
    """Check that there are perturbed images at `location`, and the clean ones of `config`.

    Raises:
        UserError: as for `require_training`, or there is nothing at `location`.
    """
    require_training(config, download)
    external_path(location, config.data.take)


def require_sweep(sweep: SweepSpec, download: bool) -> None:
    """Check the settings of each data set of a sweep, as `require_training` does.

    Raises:
        UserError: an invalid setting, the images are missing, or a tracker is not installed.
    """
    for dataset in sweep.datasets:
        require_training(base_config(sweep, dataset, sweep.seeds.run[0], sweep.scopes[0]), download)


def parse_shard(text: str) -> tuple[int, int]:
    """Parse I/N, such as 2/4, as (I, N).

    Raises:
        UserError: not 1 <= I <= N.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UserError(f"--shard {text}: expected I/N with I from 1 to N, such as 2/4")
    return int(index), int(count)
