# shellcheck shell=bash
# What the launchers share; they source it in the repository's top folder, with their own arguments.
# A first argument --dry-run is taken away: `start` then prints its command and runs nothing.

dry_run=
if [[ ${1:-} == --dry-run ]]; then
    dry_run=yes
    shift
fi

fail() { # message
    echo "error: $*" >&2
    exit 2
}

need() { # variable, what it is
    [[ -n ${!1:-} ]] || fail "$1 is not set: $2"
}

need_number() { # variable, least, most, what it is
    need "$1" "$4"
    [[ ${!1} =~ ^(0|[1-9][0-9]{0,8})$ && ${!1} -ge $2 && ${!1} -le $3 ]] ||
        fail "$1=${!1}: expected a number from $2 to $3, $4"
}

need_training() { # the script's arguments
    [[ ${1:-} == train ]] || fail "expected the training command, such as: train --preset pets"
}

show() { # command
    printf '%q ' "$@"
    echo
}

start() { # command: passes SIGUSR1 and SIGTERM on to it, and returns its exit code
    local child code passed=yes
    if [[ -n $dry_run ]]; then
        show "$@"
        return
    fi
    "$@" &
    child=$!
    trap 'passed=yes; kill -USR1 "$child" || true' USR1
    trap 'passed=yes; kill -TERM "$child" || true' TERM
    while [[ -n $passed ]]; do # a signal ends `wait`, not the child
        passed=
        code=0
        wait "$child" || code=$?
    done
    trap - USR1 TERM
    return "$code"
}
