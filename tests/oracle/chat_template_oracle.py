"""Compares rendered chat templates with Jinja2, set up as Hugging Face's transformers does.

Usage: chat_template_oracle.py TEXT_PROBE

The templates are the files of templates/, the snippets below, and the demonstration model's when
QUANTLOOM_TEST_MODEL names its GGUF file.
"""

import datetime
import json
import os
import pathlib
import random
import subprocess
import sys

import gguf
import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

import text_samples

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

# One feature each; `messages` has a system, a user and an assistant message among others.
SNIPPETS = r"""
{{ 1 + 2 * 3 - 4 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }}
{{ 1.5 + 1 }} {{ 1e16 }} {{ 1e15 }} {{ 0.1 + 0.2 }} {{ 1e-5 }} {{ 0.0001 }} {{ 3.0 }} {{ -0.0 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}
{{ 'a' + 'b' ~ 1 ~ none ~ true ~ 1.0 ~ missing ~ [1, 'x', "it's"] }} {{ 'ab' * 3 }} {{ [1] * 2 + [2] }} {{ 2 * 'x' }}
{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' == 1 }} {{ none == none }}
{{ 'a' in 'cat' }} {{ 'x' not in ['x'] }} {{ 1 in [1.0] }} {{ 'k' in {'k': 1} }} {{ 'x' in missing }} {{ '' in '' }}
{{ not false and true or false }} {{ 0 or 'x' }} {{ '' and 1 }} {{ not [] }} {{ not none }} {{ missing or 'm' }}
{{ 'yes' if 1 else 'no' }} {{ 'yes' if 0 else 'no' }} [{{ 'yes' if 0 }}] {{ 1 if 0 else 2 if 0 else 3 }}
{{ -1 | abs }} {{ -(1) | abs }} {{ +5 }} {{ - - 5 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}
{{ [1, 2, 3][0] }} {{ [1, 2, 3][-1] }} [{{ [1][5] }}] {{ 'héllo'[1] }} {{ 'héllo'[-1] }} {{ {'a': {'b': 2}}.a.b }} {{ {'a': 1}['a'] }}
{{ [1, 2, 3, 4, 5][1:3] }} {{ [1, 2, 3, 4, 5][::-1] }} {{ [1, 2, 3][::2] }} {{ 'hé👍llo'[1:4] }} {{ 'abc'[::-1] }} {{ 'abc'[-2:] }} {{ 'abc'[5:] }} {{ 'abc'[:-1] }} {{ 'abcdef'[-1:1:-2] }} {{ [1,2,3][10:0:-1] }}
{{ messages[0].role }} {{ messages[0]['content'] }} {{ messages[-1].role }} {{ messages[1:][0].role }} {{ messages | length }}
{% for m in messages %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }}/{{ (loop.previtem or {}).role }}/{{ (loop.nextitem or {}).role }}/{{ loop.depth }};{% else %}none{% endfor %}
{% for m in [] %}x{% else %}empty{% endfor %}{% for c in 'añ👍' %}<{{ c }}>{% endfor %}{% for x in missing %}x{% else %}undefined{% endfor %}
{% for k, v in {'a': 1, 'b': [2]}.items() %}{{ k }}={{ v }},{% endfor %}{% for (a, b) in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}{% for k in {'x': 1} %}{{ k }}{% endfor %}
{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{{ loop.last }}{% endfor %}
{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %} {{ range(2, 10, 3) | list }} {{ range(3, 0, -1) | list }}
{% for a in [1, 2] %}{% set outer = loop %}{% for b in 'xy' %}{{ outer.index }}{{ loop.index }}{{ b }} {% endfor %}{% endfor %}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }} {% if true %}{% set x = 7 %}{% endif %}{{ x }}
{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if m.role == 'user' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.n }} {{ ns.found }} [{{ ns.missing }}] {{ ns['n'] }}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set t = 1, %}{{ t }} {{ (1, 'a') }} {{ () }} {{ 1, 2 }} {% set block %}in {{ a }} block{% endset %}{{ block | upper }}
{% macro greet(name, mark='!', n=2) %}Hi {{ name }}{{ mark * n }}{% endmacro %}{{ greet('A') }} {{ greet('B', n=1) }} {{ greet(mark='?', name='C') }} {{ greet() }}
{% set g = 'global' %}{% macro show() %}{{ g }}{% set g = 'local' %}{{ g }}{% endmacro %}{{ show() }}{{ g }} {% macro fact(n) %}{{ n if n <= 1 else n * (fact(n - 1) | int) }}{% endmacro %}{{ fact(6) }}
{{ '  x y '|trim }}|{{ 'xxaxx' | trim('x') }}|{{ 'ABC' | lower }}|{{ 'abc' | upper }}|{{ 'hELLO wORLD' | capitalize }}|{{ "it's a dog-house (big)" | title }}|{{ 5 | trim }}
{{ 'a,b,c'.split(',') }} {{ ' a  b\tc '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ ' a b  c'.split(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a--b'.split('--') }} {{ 'a,b,c'.rsplit(',', 1) }}
{{ '\u3000x\x1c'.strip() }}|{{ 'xyx'.lstrip('x') }}|{{ 'xyx'.rstrip('yx') }}|{{ 'ééaé'.strip('é') }}|{{ 'ab'.startswith('a') }}|{{ 'ab'.endswith(('x', 'b')) }}|{{ 'ab'.startswith('') }}
{{ 'aXbX'.replace('X', '-') }} {{ 'aXbX'.replace('X', '-', 1) }} {{ 'héy'.replace('', '.') }} {{ ''.replace('', 'x') }} {{ 'aaa'.replace('aa', 'b') }} {{ 'aXb' | replace('X', 1) }} {{ 123 | replace(2, 'z') }}
{{ 'banana'.find('na') }} {{ 'banana'.rfind('na') }} {{ 'é👍x'.find('x') }} {{ 'x'.find('y') }} {{ 'banana'.count('a') }} {{ 'aaaa'.count('aa') }} {{ 'é'.count('') }} {{ ', '.join(['a', 'b']) }} {{ '-'.join('abc') }}
{{ 'one\ntwo\r\nthree\x0bfour\u2028five\n'.splitlines() }} {{ 'a\nb'.splitlines(true) }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.txt'.removesuffix('.txt') }} {{ 'they\'re x2y'.title() }} {{ 'aBC dE'.capitalize() }}
{{ missing | default('d') }} {{ '' | default('d') }} {{ '' | default('d', true) }} {{ none | default('d') }} {{ none | d('x', boolean=true) }} {{ messages[0].nothing | default('n') }} [{{ missing | default }}]
{{ [3, 1, 2] | sort }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A'] | sort(case_sensitive=true) }} {{ [1, 2] | sort(reverse=true) }} {{ messages | sort(attribute='role') | map(attribute='role') | join(',') }}
{{ [1, 2, 3] | first }} {{ [1, 2, 3] | last }} {{ 'abc' | first }} [{{ [] | first }}] {{ [1, 2] | join }} {{ [1, none, 'x'] | join('-') }} {{ messages | join(', ', attribute='role') }} {{ 'abc' | reverse }} {{ [1, 2] | reverse | list }}
{{ messages | map(attribute='role') | list }} {{ ['a', 'b'] | map('upper') | join }} {{ [1, 0, 2] | select | list }} {{ [1, 2, 3] | select('odd') | list }} {{ [1, 2, 3] | reject('gt', 1) | list }} {{ messages | map(attribute='no', default='-') | join }}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('|') }} {{ messages | rejectattr('role', '==', 'user') | list | length }} {{ messages | selectattr('missing') | list }} {{ messages | selectattr('role', 'in', ['user', 'x']) | list | count }}
{{ {'b': 1, 'a': [true, none, 1.5, 'é"\n\u0001/<&']} | tojson }} {{ [] | tojson }} {{ {} | tojson(indent=2) }} {{ 'x' | tojson }} {{ (1, 2) | tojson }} {{ [1.0, 1e20, -0.5] | tojson }}
{{ {'b': [1, {'c': 2}], 'a': []} | tojson(indent=4) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ 'é👍\x7f' | tojson(ensure_ascii=true) }} {{ {'a': [1, 2]} | tojson(separators=(',', ':')) }} {{ messages | tojson(indent=0) }}
{{ {'b': 1, 'a': 2} | dictsort }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ {'b': 1}.keys() | list }} {{ {'b': 1}.values() | list }} {{ {'b': 1}.get('b') }} {{ {'b': 1}.get('x') }} {{ {'b': 1}.get('x', 3) }} {{ {'b': 1} | items | list }} {{ dict(a=1, b='x') }}
{{ '42' | int }} {{ ' 7 ' | int }} {{ '3.9' | int }} {{ 'x' | int }} {{ 'x' | int(5) }} {{ 3.9 | int }} {{ -3.9 | int }} {{ true | int }} {{ '1.5' | float }} {{ 'x' | float }} {{ 3 | float }} {{ 5 | string + 'x' }} {{ [1, 1, 2, 1] | unique | list }} {{ [3, 1, 2] | max }} {{ ['b', 'a'] | min }}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(width=1, blank=true) }}|{{ 'a\nb' | indent('> ') }}|{{ '' | indent }}
{{ x is defined }} {{ messages is defined }} {{ missing is undefined }} {{ none is none }} {{ missing is none }} {{ 'a' is string }} {{ 1 is number }} {{ true is number }} {{ true is integer }} {{ 1 is integer }} {{ 1.0 is float }} {{ true is boolean }} {{ 1 is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }}
{{ messages is sequence }} {{ 'a' is sequence }} {{ 1 is sequence }} {{ messages is iterable }} {{ 1 is iterable }} {{ messages[0] is mapping }} {{ [] is mapping }} {{ 3 is odd }} {{ 3 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is eq 1 }} {{ 1 is ne(1) }} {{ 2 is gt 1 }} {{ 'a' is in 'cat' }} {{ 'abc' is lower }} {{ 'ABC' is upper }} {{ range is callable }} {{ none is sameas none }} {{ 1 is not string }}
{{ "double \" quote" }} {{ 'single \' quote' }} {{ 'a\tb\\n\x41\u00e9\U0001F44D\101\q' }} {{ 'con' 'cat' }} {{ '{{ not a tag }}' }} {{ '%}' }} {{ {'a': {'b': {}}} }} {{ [[1], (2,), {'k': none}] }}
{% raw %}{{ raw }} {% if %}{% endraw %} {%- raw -%}  y  {%- endraw -%} z {# comment {{ x }} #}after{#- c -#} end
{{ bos_token }}{{ eos_token }}{{ unk_token }}[{{ pad_token }}]{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{% generation %}g{{ 1 }}{% endgeneration %}
{{ ['\x00', '\x7f', '\xad', '\u200b', '\ue000', '\u2028', '\U000e0001', '\\', '\'', '"', '\'"', 'é', '\u0378'] }} {{ {'k\n': "it's"} }} {{ namespace(a=1) is defined }}
{{ strftime_now('%Y-%m-%d') }} {{ (messages | length) is divisibleby 2 }} {{ messages[0].content is string and messages[0].content | length > 0 }} {{ loop is defined }} {{ 1_000 + 1 }}
{{ 'x' if messages | selectattr('role', 'equalto', 'system') | list | length > 0 else 'y' }} {{ (messages | first).role }} {{ messages | map(attribute='content') | map('length') | list }} {{ ('a' ~ 'b') | upper }} {{ 'a' ~ 'b' | upper }}
"""

# White space control: lines matter here.
WHITE_SPACE = r"""
  {% if true %}  
    indented
  {% endif %}
tail {%- if true %} a {%+ if true %} b {% endif -%}  c {% endif +%}
x
  {{- ' left' }}   
{{ 'right ' -}}   
   end {{- '!' -}} 
	{% set y = 1 %}
	{#- comment -#}
	{% for i in [1, 2] -%}
	  {{ i }}
	{%- endfor %}
"""

# Templates that must fail on both sides, when parsed or when rendered.
FAILING = [
    "{{ raise_exception('no such role') }}", "{{ missing.attribute }}", "{{ missing['x'] }}",
    "{{ 1 + 'a' }}", "{{ 'a' < 1 }}", "{{ none | length }}", "{{ missing() }}", "{{ 1() }}",
    "{% for x in 5 %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{{ 1 / 0 }}",
    "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ [] | tojson(nope=1) }}", "{{ missing | tojson }}",
    "{{ 'a'.split('') }}", "{{ [1, 'a'] | sort }}", "{{ -'a' }}", "{{ range(1000000) | list }}",
    "{{ 'a'.nope() }}", "{% set x.y = 1 %}", "{% set m = {} %}{% set m.y = 1 %}",
    "{% if %}{% endif %}", "{% if 1 %}", "{% endif %}", "{{ 1", "{{ 'a }}", "{% nope %}",
    "{{ 1 | nope }}", "{{ 1 is nope }}", "{# open", "{% raw %} x", "{{ (1 }}", "{{ 1 ] }}",
    "{{ a b }}", "{% for x %}{% endfor %}", "{% set = 1 %}", "{% macro m(a=1, b) %}{% endmacro %}",
    "{{ }}", "{{ $ }}", "{% for x in y %}{% endif %}", "{{ f(a=1, 2) }}", "{{ 1.x. }}",
    "{{ 'a' in 1 }}", "{{ 'a' * 'b' }}", "{{ [][::0] }}", "{{ messages.x.y }}",
    "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(b=1) }}",
]


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime.now().strftime(f)
    return env


def conversations():
    generator = random.Random(3)
    yield []
    yield [("user", "Hi")]
    yield [("system", "  Be brief.\n"), ("user", "Hello <|im_end|> {{ x }}"), ("assistant", "Yes.\n"),
           ("user", "  two\n\nlines ")]
    yield [("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c")]
    yield [("tool", "{\"a\": 1}"), ("user", "")]
    for _ in range(4):
        turns = ["user", "assistant"] * generator.randrange(1, 4)
        system = [("system", generator.choice(text_samples.SENTENCES))]
        yield system * generator.randrange(2) + [
            (role, generator.choice(text_samples.SENTENCES)) for role in turns]


def templates():
    for path in sorted((pathlib.Path(__file__).parent / "templates").glob("*.jinja")):
        yield path.name, path.read_text(encoding="utf-8")
    for i, line in enumerate(SNIPPETS.strip("\n").split("\n")):
        yield f"snippet {i}", line
    for end, name in (("\n", "lines"), ("\r\n", "lines of DOS"), ("\r", "lines of old Macs")):
        yield f"snippets, {name}", SNIPPETS.replace("\n", end)
        yield f"white space, {name}", WHITE_SPACE.replace("\n", end)
    model = os.environ.get("QUANTLOOM_TEST_MODEL")
    if model:
        yield "demonstration model", gguf.GGUFReader(model).fields[
            "tokenizer.chat_template"].contents()
    for i, template in enumerate(FAILING):
        yield f"failing {i}", template


def expected(env, source, messages, prompt):
    try:
        return env.from_string(source).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=prompt, **TOKENS)
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, ZeroDivisionError,
            OverflowError):
        return None


def main():
    env = environment()
    requests, wanted, names = [], [], []
    for name, source in templates():
        failing = name.startswith("failing")
        for conversation in conversations():
            messages = [{"role": r, "content": c} for r, c in conversation]
            for prompt in (False, True):
                requests.append({"config": dict(TOKENS, chat_template=source),
                                 "messages": messages, "add_generation_prompt": prompt})
                wanted.append(expected(env, source, messages, prompt))
                names.append(name)
                assert not failing or wanted[-1] is None, source
        assert failing or any(wanted[-2 * len(list(conversations())):]), source
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    done = subprocess.run([sys.argv[1], "template"], input=lines, capture_output=True, text=True,
                          encoding="utf-8")
    if done.returncode != 0:
        raise SystemExit(f"{done.returncode}: {done.stderr}")
    answers = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert len(answers) == len(requests)
    failures = set()
    for name, request, answer, want in zip(names, requests, answers, wanted):
        if answer.get("text") != want and name not in failures:
            failures.add(name)
            print(f"{name}: {request['config']['chat_template']!r}\n  messages "
                  f"{request['messages']!r}\n  got  {answer!r}\n  want {want!r}")
    rendered = sum(want is not None for want in wanted)
    print(f"{len(requests)} renderings of {len(set(names))} templates ({rendered} give text), "
          f"{len(failures)} templates differ")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
