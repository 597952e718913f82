"""Compile the one part that is not Python, `serving/model/trees.c`.

Where there is no C compiler, Zig's comes from the package index, for the time of the build. Where
trees.c does not compile, and on Windows, decisions take LightGBM's own, longer way.
"""

import os
import shutil
import sys
import sysconfig

from setuptools import Extension, setup

compiler = os.environ.get("CC") or sysconfig.get_config_var("CC")  # None on Windows
has_compiler = not compiler or shutil.which(compiler.split()[0])
if not has_compiler:  # for any processor of the kind, not only for this one
    os.environ["CC"] = f"{sys.executable} -m ziglang cc -mcpu=baseline"

# Vectors of steps are slower than steps: what a walk looks at is scattered over memory.
trees = Extension(
    "tidemill.serving.model._trees",
    ["serving/model/trees.c"],
    libraries=["m"],
    extra_compile_args=["-O3", "-fno-tree-vectorize", "-fno-tree-slp-vectorize"],
    optional=True,
)
setup(
    setup_requires=[] if has_compiler else ["ziglang"],
    ext_modules=[] if sys.platform == "win32" else [trees],
)
