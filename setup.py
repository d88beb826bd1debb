"""The compiled loops: everything else about the package stands in pyproject.toml."""

import sysconfig

from setuptools import Extension, setup

# one build for all versions of Python from 3.11 on, but for those without the global lock, which know no limited API
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "rna_watch.kernels._loops",
            ["rna_watch/kernels/_loops.c"],
            depends=["rna_watch/kernels/_sums.h"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED else [],
            py_limited_api=LIMITED,
            # no fused products, for the same bits everywhere; the others let loops with a choice be vectors
            extra_compile_args=[
                "-O3",
                "-ffp-contract=off",
                "-fno-strict-aliasing",
                "-fno-trapping-math",
                "-fno-math-errno",
            ],
            optional=True,  # without a compiler numpy does the work
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
)
