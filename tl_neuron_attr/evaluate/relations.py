"""Relations of subjects and objects, as files of factual knowledge hold them, made into the prompts of a study.

A relation file (the format of the LRE data set, Hernandez et al., 2024) is a JSON object, or a list of them::

    {"name": "country capital city", "prompt_templates": ["The capital of {} is"],
     "samples": [{"subject": "France", "object": "Paris"}]}

``prompt_templates_zs`` are taken where there are any: sentences that need no example before them.
"""

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, cast

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.evaluate.prompts import PromptFile, StudyPrompt, by_type, unnamed
from tl_neuron_attr.results.rows import parse_json, read_utf8, unwritable

_TEMPLATES = ("prompt_templates_zs", "prompt_templates")


@typechecked
def read_relations(path: str | Path, *, every_template: bool = False, type: str | None = None) -> PromptFile:
    """Read relation files as prompts: one per sample, its subject in the template, a space and its object the target.

    A sample that can't be used is left out and named in ``problems``, and so is one whose prompt stands there already
    with another answer.

    Args:
        path: A JSON file of one relation or a list of them, or a folder of such files.
        every_template: Whether every template makes a prompt of each sample; only the relation's first by default.
        type: The prompts' type of knowledge; the relation's name by default.

    Raises:
        FileNotFoundError: If there is no such file, or no JSON file in the folder.
        ValueError: If a file is not JSON in UTF-8, a relation has no name, template or samples, a template does not
            hold ``{}`` once, or no sample can be used.

    Examples:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "capitals.json"
        >>> _ = path.write_text('''{"name": "capital", "prompt_templates": ["The capital of {} is"],
        ...     "samples": [{"subject": "France", "object": "Paris"}, {"subject": "Japan"}]}''')
        >>> found = read_relations(path)
        >>> found.prompts[0].prompt, found.prompts[0].target
        ('The capital of France is', ' Paris')
        >>> found.problems[0].endswith("capitals.json, 'capital', sample 1: field 'object' is missing")
        True
    """
    if type is not None and (problem := unnamed(type)):
        raise ValueError(f"type={type!r}: {problem}")
    answers: dict[tuple[str, str], str] = {}
    problems: list[str] = []
    for where, relation in _relations(Path(path)):
        name, templates, samples = _checked(where, relation)
        for i, sample in enumerate(samples):
            found = _pair(sample)
            if isinstance(found, str):
                problems.append(f"{where}, {name!r}, sample {i}: {found}")
                continue
            for template in templates if every_template else templates[:1]:
                prompt, (subject, target) = (type or name, template.replace("{}", found[0])), found
                if answers.setdefault(prompt, target) != target:
                    problems.append(
                        f"{where}, {name!r}, sample {i}: {subject!r} has the answer {answers[prompt]!r} too"
                    )
    if not answers:
        raise ValueError(f"{path} holds no sample that can be used; {problems[0] if problems else 'all are empty'}")
    prompts = tuple(StudyPrompt(text, f" {target}", kind) for (kind, text), target in answers.items())
    return PromptFile(prompts, tuple(problems))


@typechecked
def real_facts(types: Sequence[str] | None = None) -> dict[str, list[StudyPrompt]]:
    """Return facts about the world that language models know: the six types of paper 1, company, sport and instrument.

    Args:
        types: Which types; all by default.

    Raises:
        ValueError: If a type is not there, naming those that are.

    Examples:
        >>> facts = real_facts(["capital"])["capital"]
        >>> next(fact.target for fact in facts if fact.prompt == "The capital of France is")
        ' Paris'
    """
    with as_file(files("tl_neuron_attr").joinpath("data/real_facts.json")) as path:
        groups = by_type(read_relations(path, every_template=True).prompts)
    wanted = list(groups) if types is None else types
    if unknown := [kind for kind in wanted if kind not in groups]:
        raise ValueError(f"types: {unknown[0]!r} is none of {', '.join(groups)}")
    return {kind: groups[kind] for kind in wanted}


@typechecked
def first_tokens(model: Any, prompts: Sequence[StudyPrompt]) -> PromptFile:
    """Return the prompts with the first token of each target in the target's place, as factual studies score answers.

    A prompt is left out, and named in ``problems``, if another answer of its type begins with the same token.

    Args:
        model: The model whose tokenizer is used.
        prompts: The prompts.

    Raises:
        ValueError: If the model has no tokenizer.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> prompts = [StudyPrompt("he plays", " basketball match", "sport")]
        >>> first_tokens(tna.demo.load(), prompts).prompts[0].target
        ' basketball'
    """
    if model.tokenizer is None:
        raise ValueError("model has no tokenizer: give targets that are token ids to the functions that take them")
    begun: dict[tuple[str, int], set[str]] = {}
    first = [_ids(model, prompt.target)[0] for prompt in prompts]
    for prompt, token in zip(prompts, first, strict=True):
        begun.setdefault((prompt.type, token), set()).add(prompt.target)
    kept: list[StudyPrompt] = []
    problems: list[str] = []
    for i, (prompt, token) in enumerate(zip(prompts, first, strict=True)):
        text, sharing = _beginning(model, prompt.target, token), len(begun[prompt.type, token])
        if sharing > 1:
            problems.append(f"prompts[{i}]: {sharing} answers of {prompt.type!r} begin with {text!r}")
        elif not text:
            problems.append(f"prompts[{i}]: the first token of {prompt.target!r} is no text of its own")
        else:
            kept.append(StudyPrompt(prompt.prompt, text, prompt.type))
    return PromptFile(tuple(kept), tuple(problems))


def _beginning(model: Any, target: str, token: int) -> str:
    """Return the beginning of a text that is its first token alone, or the empty string if there is none."""
    decoded = model.tokenizer.decode([token])  # some tokenizers drop the space in front
    found = (text for text in (f" {decoded}", decoded) if target.startswith(text) and _ids(model, text) == [token])
    return next(found, "")


def _ids(model: Any, text: str) -> list[int]:
    return model.tokenizer.encode(text, add_special_tokens=False) or [-1]


def _relations(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each relation with the name of its file."""
    found = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not found:
        raise FileNotFoundError(f"no relation file (*.json) in {path}")
    for file in found:
        try:
            value = parse_json(read_utf8(file))
        except ValueError as error:
            raise error if str(error).startswith(str(file)) else ValueError(f"{file}: {error}") from error
        for relation in value if isinstance(value, list) else [value]:
            yield str(file), relation


def _checked(where: str, relation: Any) -> tuple[str, list[str], list[Any]]:
    """Return a relation's name, templates and samples.

    Raises:
        ValueError: If one of them is missing or not what it must be.
    """
    if not isinstance(relation, dict):
        raise ValueError(f"{where} holds {reprlib.repr(relation)}, no object with name, templates and samples")
    fields = cast(Mapping[str, Any], relation)
    name, samples = fields.get("name"), fields.get("samples")
    if not isinstance(name, str) or unnamed(name):
        raise ValueError(f"{where}: field 'name' must be a text, got {reprlib.repr(name)}")
    templates = next((fields[field] for field in _TEMPLATES if fields.get(field)), None)
    if not isinstance(templates, list):
        raise ValueError(f"{where}, {name!r} has no templates: give 'prompt_templates', a list of texts with {{}}")
    for template in cast(list[Any], templates):
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ValueError(f"{where}, {name!r}: a template must hold {{}} once, got {reprlib.repr(template)}")
    if not isinstance(samples, list):
        raise ValueError(f"{where}, {name!r}: field 'samples' must be a list, got {reprlib.repr(samples)}")
    return name, cast(list[str], templates), cast(list[Any], samples)


def _pair(sample: Any) -> tuple[str, str] | str:
    """Return a sample's subject and object without outer spaces, or what is wrong with it."""
    if not isinstance(sample, dict):
        return f"not an object but {reprlib.repr(sample)}"
    values = cast(Mapping[str, Any], sample)
    for field in ("subject", "object"):
        if field not in values:
            return f"field {field!r} is missing"
        value = values[field]
        if not isinstance(value, str) or not value.strip():
            return f"field {field!r} must be a text that is not empty, got {reprlib.repr(value)}"
        if problem := unwritable(value):
            return f"field {field!r}: {problem}"
    return values["subject"].strip(), values["object"].strip()
