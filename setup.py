"""Packaging of nni_nastc."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "nni_nastc" / "__init__.py").read_text(encoding="utf-8"))[1]
# NNI 3.0's strategies of reinforcement learning work with these releases.
RL = ["gym==0.26.2", "tianshou==0.5.1"]

setup(
    name="nni_nastc",
    version=VERSION,
    description="NAS-TC for NNI: search temporal-convolution cells for complex actions in long videos",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["nni_nastc", "nni_nastc.*"]),
    package_data={
        "nni_nastc": ["py.typed", "search_spaces/*.yaml", "search_spaces/genotypes/*.json"],
        "nni_nastc.experiments": ["*.js"],
    },
    install_requires=[
        "av>=17,<19",
        "filelock",
        "matplotlib>=3.7",
        "nni==3.0",
        "numpy>=1.24",
        "onnx>=1.16",
        "onnxruntime>=1.18",
        "onnxscript>=0.1",
        "psutil",
        "pydantic>=2.5",
        "pytorch-lightning>=2.6",
        "pyyaml>=6",
        "rich>=13",
        "safetensors>=0.4",
        "scipy>=1.9",
        # nnictl needs pkg_resources, which later releases no longer have.
        "setuptools>=77.0.3,<81",
        "tensorboard>=2.13",
        "torch>=2.4",
        "websockets>=12",
    ],
    extras_require={
        "hdf5": ["h5py>=3.8"],
        "rl": RL,
        # pytest-xdist's groups of tests are without effect in pytest 9.
        "dev": [
            *RL, "build", "h5py>=3.8", "mypy", "pytest>=8,<9", "pytest-timeout", "pytest-xdist>=3.5", "ruff",
            "scikit-learn", "triton>=3.2", "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["nastc = nni_nastc.cli.main:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
