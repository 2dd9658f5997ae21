"""One start of ranks for several engines: starting takes longer than what they are tested for."""

import os
from pathlib import Path

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

_OWN = ("ACCELERATE_", "FSDP_")


def become(config: Path) -> None:
    """Forget this rank's engine; set the environment that `accelerate launch` makes of `config`."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    for key in [key for key in os.environ if key.startswith(_OWN)]:
        del os.environ[key]
    os.environ.update(environment_of(config))


def environment_of(config: Path) -> dict[str, str]:
    """The environment that `accelerate launch` makes of `config` for the ranks' engine."""
    parsed = launch_command_parser().parse_args(["--config_file", str(config), "script"])
    arguments, found, _ = _validate_launch_command(parsed)
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(found.deepspeed_config)
        environment = prepare_deepspeed_cmd_env(arguments)[1]
    else:
        environment = prepare_multi_gpu_env(arguments)
    return {k: v for k, v in environment.items() if k.startswith(_OWN)}
