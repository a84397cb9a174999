"""Untrusted files. Each must be refused with a `ConfigError`, and must run nothing."""

import json

MODEL = "{kind: gpt, num_layers: 1, hidden_size: 8, num_attention_heads: 1, vocab_size: 8, seq_length: 8}"
HEAD = f"modelwright: 1\nmodel: {MODEL}\n"
PATHS = ("os.system", "builtins.exec", "subprocess:Popen", "this", "hostile_part", "hostile_part:Config")


def _kinds() -> dict[str, str]:
    names = [
        *PATHS,
        *("../hostile_part", "../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "gpt/../../x", "..\\..\\x"),
        *("modelwright.gpt.config", "modelwright.gpt.config:GPTModelConfig", "GPTModelConfig", "modelwright-gpt"),
        *("__class__", "__import__('os')", "__proto__", "constructor", "prototype", "__init_subclass__", "toString"),
        *("pytest11", "console_scripts", "hypothesispytest", "pip", "sphinx.html_themes", "typer", "gpt\u200b", "GPT"),
        *("${oc.env:HOME}", "{{ 7*7 }}", "%(x)s", "$(id)", "`id`", "gpt;import os", "run", "", " gpt"),
    ]
    return {f"kind {name}": f"modelwright: 1\nmodel: {{kind: {json.dumps(name)}}}\n" for name in names}


def _dotted_paths() -> dict[str, str]:
    """Return files with a dotted path in place of each string, and with the keys that make other loaders import."""
    found: dict[str, str] = {}
    for path in PATHS:
        found[f"wrap kind {path}"] = f"{HEAD}wrap: {{kind: {json.dumps(path)}}}\n"
        found[f"schedule kind {path}"] = f"{HEAD}train: {{lr_schedule: {{kind: {json.dumps(path)}}}}}\n"
        found[f"activation {path}"] = HEAD.replace("kind: gpt", f"kind: gpt, activation: {json.dumps(path)}")
        found[f"backend {path}"] = f"{HEAD}backend: {json.dumps(path)}\n"
        found[f"wrap {path}"] = f"{HEAD}wrap: {json.dumps(path)}\n"
        found[f"model {path}"] = f"modelwright: 1\nmodel: {json.dumps(path)}\n"
    for key in (
        *("_target_", "_builder_", "_partial_", "_call_", "builder", "version_", "__class__", "__reduce__", "__init__"),
        *("__dict__", "__setstate__", "__import__", "__proto__", "constructor", "class", "type", "py/object", "$ref"),
        *("problems", "engine_fields", "get_builder_cls", "from_dict", "import", "include", "extends", "defaults"),
    ):
        found[f"top key {key}"] = f"{HEAD}{json.dumps(key)}: os.system\n"
        found[f"model key {key}"] = HEAD.replace("kind: gpt", f"kind: gpt, {json.dumps(key)}: os.system")
        found[f"train key {key}"] = f"{HEAD}train: {{{json.dumps(key)}: {{_target_: os.system, _args_: [id]}}}}\n"
    return found


def _yaml() -> dict[str, str]:
    laughs = "a: &a [lol, lol]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(20)
    )
    return {
        "python object": HEAD + "name: !!python/object:os.system {}\n",
        "python apply": HEAD + "name: !!python/object/apply:os.system [id]\n",
        "python new": HEAD + "name: !!python/object/new:subprocess.Popen [[id]]\n",
        "python name": HEAD + "name: !!python/name:os.system\n",
        "python module": HEAD + "name: !!python/module:hostile_part\n",
        "python tuple": HEAD + "name: !!python/tuple [1]\n",
        "python on top": "!!python/object:os.system\n" + HEAD,
        "ruby": HEAD + "name: !ruby/object:Gem::Installer {}\n",
        "java": HEAD + "name: !!javax.script.ScriptEngineManager []\n",
        "verbatim tag": HEAD + "name: !<tag:yaml.org,2002:python/object:os.system> {}\n",
        "tag directive": "%TAG ! tag:yaml.org,2002:python/\n---\n" + HEAD + "name: !object:os.system x\n",
        "binary": HEAD + "name: !!binary aGk=\n",
        "set": HEAD + "train: !!set {steps}\n",
        "omap": HEAD + "train: !!omap [steps: 1]\n",
        "billion laughs": laughs + HEAD,
        "billion laughs in a field": HEAD + "train:\n" + "".join(f"  {line}\n" for line in laughs.splitlines()),
        "self reference": HEAD + "train: &t {steps: *t}\n",
        "merge": HEAD + "train: &t {steps: 3}\nwrap:\n  <<: *t\n",
        "merge list": HEAD + "train:\n  <<: [{steps: 3}, {seed: 1}]\n",
        "unhashable key": HEAD + "? {a: b}\n: c\n",
        "list key": HEAD + "? [a, [b, c]]\n: d\n",
        "nested keys": HEAD + "? ? ? a\n: b\n",
        "null key": HEAD + "~: x\n",
        "true key": HEAD + "true: x\n",
        "float key": HEAD + "1.5: x\n",
        "nan key": HEAD + ".nan: x\n",
        "date key": HEAD + "2024-01-01: x\n",
        "two documents": HEAD + "---\n" + HEAD,
        "deep flow": HEAD + "train: " + "[" * 100_000,
        "deep mapping": HEAD + "train: " + "{a: " * 50_000,
        "deep block": HEAD + "train:\n" + "".join(" " * n + "a:\n" for n in range(1, 1200)),
        "deep dashes": HEAD + "train: \n  " + "- " * 50_000 + "x\n",
        "deep question marks": "? " * 100_000,
        "million keys": "".join(f"k{n}: 1\n" for n in range(1_000_000)),
        "many keys": HEAD + "train:\n" + "".join(f"  k{n}: 1\n" for n in range(20_000)),
        "long line": HEAD + "name: " + "x" * 1_000_000 + "/\n",
        "huge integer": HEAD + "train: {steps: " + "9" * 100_000 + "}\n",
        "huge exponent": HEAD + "train: {steps: 1e999999999}\n",
        "surrogate": HEAD + 'name: "\\ud800"\n',
        "nul": HEAD + "name: a\0b\n",
        "escape sequences": HEAD + 'name: "\\e]0;x\\a\\e[2J"\n',
        "right to left": HEAD + "\u202eemag: x\n",
        "path for a name": HEAD + "name: ../../../etc/cron.d/x\n",
        "yaml directive": "%YAML 9.9\n---\n" + HEAD + "x: 1\n",
        "unknown directive": "%LOAD os\n---\n" + HEAD + "x: 1\n",
        "only anchors": "&a &b x\n",
        "version of a string": HEAD.replace("modelwright: 1", "modelwright: '__import__(\"os\")'"),
        "version that is huge": HEAD.replace("kind: gpt", "kind: gpt, version: " + "9" * 4000),
        "version that is negative": HEAD.replace("kind: gpt", "kind: gpt, version: -1"),
        "engine with a number for a name": HEAD.replace("kind: gpt", "kind: gpt, engine: {1: 2}"),
    }


def _json() -> dict[str, str]:
    head = json.dumps({"modelwright": 1, "model": {"kind": "gpt"}})[:-1]
    return {
        "target": head + ', "_target_": "os.system"}',
        "jsonpickle": head + ', "py/object": "os.system", "py/reduce": [{"py/type": "os.system"}]}',
        "proto": head + ', "__proto__": {"polluted": true}}',
        "deep": "[" * 500_000,
        "deep objects": '{"a":' * 100_000,
        "twice": '{"modelwright": 1, "modelwright": 1}',
        "huge integer": '{"modelwright": ' + "9" * 100_000 + "}",
        "million keys": "{" + ", ".join(f'"k{n}": 1' for n in range(1_000_000)) + "}",
        "comment": "/* */ {}",
        "call": '__import__("os").system("id")',
        "trailing": "{} {}",
    }


def _toml() -> dict[str, str]:
    head = 'modelwright = 1\n[model]\nkind = "gpt"\n'
    return {
        "target": head + '_target_ = "os.system"\n',
        "deep array": "a = " + "[" * 100_000,
        "deep tables": "a = " + "{a = " * 50_000,
        "deep key": ".".join("a" * 200_000) + " = 1\n",
        "deep quoted key": ".".join(['"a"'] * 100_000) + " = 1\n",
        "deep header": "[" + ".".join("a" * 200_000) + "]\n",
        "sixty headers": "".join(f"[{'.'.join(['a'] * n)}]\n" for n in range(1, 64)),
        "date": head + "engine.when = 2024-01-01\n",
        "huge integer": head + "num_layers = " + "9" * 100_000 + "\n",
        "unterminated": head + 'engine.a = """\n' + "x" * 500_000,
        "quotes": '"' * 500_000,
        "many brackets": "[[" * 200_000,
        "million keys": "".join(f"k{n} = 1\n" for n in range(1_000_000)),
        "many tables": "".join(f"[t{n}]\n" for n in range(50_000)),
        "long bare word": "a" * 1_000_000,
    }


def _bytes() -> dict[str, bytes]:
    return {
        "pickle.yaml": b"\x80\x04\x95\x1d\x00\x00\x00cos\nsystem\n(S'id'\ntR.",
        "torch.yaml": b"PK\x03\x04\x00\x00\x08\x08\x00\x00" + b"archive/data.pkl" * 10,
        "latin.yaml": b"name: \xe9\n",
        "utf16.yaml": "modelwright: 1\n".encode("utf-16"),
        "utf32.json": "{}".encode("utf-32"),
        "overlong.yaml": b"name: \xc0\xaf\xc0\xae\n",
        "elf.yaml": b"\x7fELF\x02\x01\x01\x00",
        "large.yaml": b"#" * 50_000_000,
        "large.json": b" " * 50_000_000,
        "large.toml": b"#" * 50_000_000,
        "code.py": b"import os\nos.system('id')\n",
        "none": b"modelwright: 1\n",
    }


def files() -> dict[str, bytes]:
    """Return the content of every file by its name."""
    found = dict(_bytes())
    groups = {"yaml": {**_kinds(), **_dotted_paths(), **_yaml()}, "json": _json(), "toml": _toml()}
    for suffix, texts in groups.items():
        for number, (_, text) in enumerate(texts.items()):
            found[f"{number:03}.{suffix}"] = text.encode("utf-8", "surrogatepass")
    return found


def names() -> dict[str, str]:
    """Return the description of each numbered file, for messages."""
    groups = {"yaml": {**_kinds(), **_dotted_paths(), **_yaml()}, "json": _json(), "toml": _toml()}
    return {f"{number:03}.{suffix}": name for suffix, texts in groups.items() for number, name in enumerate(texts)}
