from rna_watch.api import extrapolate as extrapolate
from rna_watch.api import open_run as open_run
from rna_watch.api import watch as watch

__version__: str
