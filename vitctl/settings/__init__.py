"""What each command can be told: one frozen dataclass per command, every setting said once.

``option.py`` is what a setting is: its words, choices, limits and how text becomes a value. ``words.py`` holds every
list of choices, ``groups.py`` the settings that commands share, and each other file one command's. The command line
(``vitctl.cli.command``), its help, the functions of ``import vitctl``, a run's ``config.json`` and ``--config`` are all
made from these fields. Plain Python: no torch behind ``--help``.
"""
