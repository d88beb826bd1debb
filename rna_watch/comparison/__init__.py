"""Every method at every checkpoint of one run: which was best, what it saved, and where it lost."""
