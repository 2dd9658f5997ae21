# shellcheck shell=bash
# A function of the launchers and of submitted jobs.

pass_signals() { # command: passes SIGUSR1 and SIGTERM on to it, and returns its exit code
    local child code interrupted=yes
    "$@" &
    child=$!
    trap 'interrupted=yes; kill -USR1 "$child" || true' USR1
    trap 'interrupted=yes; kill -TERM "$child" || true' TERM
    while [[ -n $interrupted ]]; do # a signal interrupts `wait`, but does not end the child
        interrupted=
        code=0
        wait "$child" || code=$?
    done
    trap - USR1 TERM
    return "$code"
}
