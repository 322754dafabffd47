"""Real programs that follow a live run, through a real mount and, for comparison, in a local directory.

    places.py                 where a run lives: a local directory, or a mount of an emulator in one of several forms
    programs.py               programs that follow, and what they have printed so far
    records.py, events.py     contents: lines that say where they belong, and TensorBoard's event files
    test_following.py         programs that follow one file
    test_tensorboard.py       TensorBoard and its EventAccumulator
    test_unknown_sizes.py     copies of files whose size nothing tells
    soak.py, follower.py      `python -m tests.follow.soak`: 20 files, five programs each, with changes and faults

Each test runs in a local directory, too: a program that fails there fails for itself, and not for the mount. The
programs come with .ci/setup.sh and the group `follow` of pyproject.toml.
"""
