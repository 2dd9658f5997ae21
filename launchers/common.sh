# shellcheck shell=bash
# Functions of the launchers, which source this file with their own arguments. It removes a first
# argument --dry-run; `start` then prints its command and runs nothing.

source launchers/signals.sh

dry_run=
if [[ ${1:-} == --dry-run ]]; then
    dry_run=yes
    shift
fi

fail() { # message
    echo "error: $*" >&2
    exit 2
}

need() { # variable, meaning
    [[ -n ${!1:-} ]] || fail "$1 is not set; set it to $2"
}

need_number() { # variable, minimum, maximum, meaning
    need "$1" "$4"
    [[ ${!1} =~ ^(0|[1-9][0-9]{0,8})$ && ${!1} -ge $2 && ${!1} -le $3 ]] ||
        fail "$1=${!1}: expected $4, from $2 to $3"
}

need_training() { # the script's arguments
    [[ ${1:-} == train ]] || fail "expected the training command, such as: train --preset pets"
}

show() { # command
    printf '%q ' "$@"
    echo
}

start() { # command: runs it with `pass_signals`, or prints it
    if [[ -n $dry_run ]]; then
        show "$@"
        return
    fi
    pass_signals "$@"
}
