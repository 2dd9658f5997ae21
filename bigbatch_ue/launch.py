"""Start ranks: `python -m bigbatch_ue.launch --config_file FILE ... -m bigbatch_ue train ...`."""

import sys

from bigbatch_ue.launching.ranks import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
