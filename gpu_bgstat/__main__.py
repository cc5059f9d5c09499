"""The command `gpu-bgstat`, and python -m gpu_bgstat."""

import os
import sys


def main() -> int:
    """Runs the command; Ctrl-C while it is still being loaded ends as later on."""
    try:
        from gpu_bgstat import cli  # noqa: PLC0415  (half a second)

        code = cli.main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    if code == 130:
        sys.stderr.flush()
        os._exit(code)  # a thread may still wait inside OpenCV, and would abort the process when the interpreter ends
    return code


if __name__ == "__main__":
    sys.exit(main())
