"""``python -m nearfield``: the command line."""

from __future__ import annotations

from nearfield.cli import main

if __name__ == "__main__":
    main()
