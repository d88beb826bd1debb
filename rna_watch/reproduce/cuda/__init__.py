"""The paper's networks in a few minutes of a GPU: two trainings side by side, judged on the device, tables made later anywhere.

It needs torch, numpy and the standard library alone, so that it runs where nothing can be installed:

    python3 -m rna_watch.reproduce.cuda --data DIR --out DIR --budget 9m
    python3 -m rna_watch.reproduce.cuda --tables DIR
"""
