"""The measuring process for peers: ``fewbits.targets.worker`` with the targets of ``peer_targets.py`` besides its own.

``compare(..., worker=peer_worker.COMMAND)`` starts it.
"""

from __future__ import annotations

import sys
from typing import Final

from fewbits.targets.worker import main
from peer_targets import open_peer

COMMAND: Final = (sys.executable, __file__)

if __name__ == "__main__":
    main(open_peer)
