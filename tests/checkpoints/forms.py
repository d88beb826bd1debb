"""All ways to write a checkpoint that are read: what the one contract is asked of."""

from . import archive_forms, dcp_forms, deepspeed_forms, folder_forms, rank_forms, writers

FORMS = (
    writers.FORMS
    | folder_forms.FORMS
    | dcp_forms.FORMS
    | deepspeed_forms.FORMS
    | rank_forms.FORMS
    | archive_forms.FORMS
)
