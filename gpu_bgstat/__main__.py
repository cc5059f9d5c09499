"""The command `gpu-bgstat`, and python -m gpu_bgstat."""

import os
import sys

from gpu_bgstat import interrupts


def main() -> int:
    """Runs the command; a signal while it is still being loaded ends it as later on."""
    interrupts.install()
    from gpu_bgstat import cli  # noqa: PLC0415  (half a second)

    try:
        with interrupts.raised():
            code = cli.main()
    except KeyboardInterrupt as error:  # just before or after `cli` listens
        code = interrupts.farewell(error)
    if code in interrupts.EXIT_CODES.values():
        os._exit(code)  # a thread may still wait inside OpenCV, and would abort the process when the interpreter ends
    return code


if __name__ == "__main__":
    sys.exit(main())
