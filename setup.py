"""The compiled loops: everything else about the package stands in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "rna_watch.kernels._loops",
            ["rna_watch/kernels/_loops.c"],
            depends=["rna_watch/kernels/_sums.h"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
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
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
