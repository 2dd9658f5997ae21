"""The program as a module: `python -m bigbatch_ue` is `bigbatch-ue`."""

from bigbatch_ue.cli.commands import main

main()
