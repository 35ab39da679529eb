"""Building blocks of ``vitctl sweep``: combinations of settings, the runs of them, what these come to."""
