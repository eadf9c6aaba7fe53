"""The `zoo` command as `python -m benchmarks`, which torchrun starts in several processes."""

from benchmarks.cli import main

if __name__ == "__main__":  # a process that measures runs this file again, under another name
    main()
