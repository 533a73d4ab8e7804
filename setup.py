"""Compile the C kernels in parallel; setuptools compiles the sources of an extension in turn."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class ParallelBuild(build_ext):
    """``build_ext`` with a thread for each processor."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension.

        Args:
            ext: The extension, with the sources that take longest at the end.
        """
        compile_all = self.compiler.compile

        def compile_each(sources: list[str], **settings: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                # The longest first, so that none of them runs alone at the end.
                runs = [
                    pool.submit(compile_all, [source], **settings) for source in reversed(sources)
                ]
                return [name for run in runs for name in run.result()]

        self.compiler.compile = compile_each
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile = compile_all


setup(cmdclass={"build_ext": ParallelBuild})
