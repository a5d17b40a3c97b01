"""Package metadata; the build system and the tools are configured in pyproject.toml."""
from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="task1a",
    version="0.1.0",
    description="BC-ResNet-ASC with Residual Normalization, and a submission toolkit for DCASE 2021 Task 1A",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["task1a*", "evaluation*", "submission*"]),
    package_data={"submission": ["*.yaml", "*.jinja"], "evaluation": ["*.jinja"]},
    install_requires=[
        "torch>=2.11",
        "torchaudio>=2.11",
        "lightning-fabric>=2.6",
        "soundfile>=0.12",
        "soxr>=0.5",
        "numpy>=2.0",
        "scipy>=1.13",
        "pandas>=2.2",
        "scikit-learn>=1.5",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "pyyaml>=6.0",
        "pydantic>=2.8",
        "typing-extensions>=4.12",
        "safetensors>=0.5",
        "tqdm>=4.66",
        "psutil>=5.9",
        "requests>=2.31",
        "urllib3>=2.3",
        "dcase_util>=0.2.20",
        "sed_eval>=0.2.1",
        # dcase_util imports pkg_resources, which later releases no longer have
        "setuptools>=77.0.3,<82",
    ],
    extras_require={
        # to count files of these kinds; before 1.21, onnx believed the sizes that a file told of others
        "onnx": ["onnx>=1.21"],
        "tflite": ["tflite>=2.18"],
        "keras": ["h5py>=3.11"],
        # to export a model
        "export": ["onnx>=1.21", "onnxscript>=0.7", "onnxruntime>=1.22"],
        # to predict what a microphone records
        "microphone": ["sounddevice>=0.5"],
        # to spread many runs over a cluster
        "cluster": ["ray>=2.40"],
        "test": ["pytest>=8.0", "pytest-xdist>=3.6", "hypothesis>=6.100", "librosa>=0.10.2", "threadpoolctl>=3.5",
                 "ruff>=0.6", "onnx>=1.21", "onnxscript>=0.7", "onnxruntime>=1.22", "tflite>=2.18", "h5py>=3.11",
                 "ray>=2.40"],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Operating System :: OS Independent",
    ],
)
