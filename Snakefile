# Which notebook runs after which, and when one runs again. `./run_all.sh` calls this; by hand:
#   snakemake -s Snakefile --directory runs/demo --cores 2 --config preset=demo
# A notebook runs again when its file, a setting of its groups, its data or the code it imports changed (params), or when
# something it needs ran again or changed (input). The run id is no parameter: it changes nothing but a column.
import json
import os
import shlex
import sys

sys.path.insert(0, workflow.basedir)
from medxvl import data, graph, paths, presets, variants

PRESET = presets.load(config["preset"], config.get("overrides", ""))
SOURCES = data.sources(PRESET, config.get("data", ""))
ARGUMENTS = shlex.join(
    ["--preset", PRESET.name, "--overrides", config.get("overrides", ""), "--data", config.get("data", "")]
)

os.environ.setdefault("MEDXVL_RUN", "")
os.environ["PYTHONPATH"] = os.pathsep.join([str(paths.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


envvars:
    "MEDXVL_RUN",
    "PYTHONPATH",


rule all:
    input:
        [step.file for step in variants.steps(graph.select([]), PRESET)],
    default_target: True


rule phantom:
    output:
        "data/phantom.json",
    params:
        settings=[PRESET.studies, PRESET.phantom_seed, str(data.phantom_raw(PRESET))],
        code=graph.data_code(),
    threads: workflow.cores
    shell:
        "{sys.executable:q} -P -m medxvl.prepare phantom {ARGUMENTS} --workers {threads}"


for role, source in SOURCES.items():

    rule:
        name:
            f"prepare_{role}"
        input:
            ["data/phantom.json"] if source.synthetic else [],
        output:
            f"data/{role}.json",
        params:
            source=[source.name, str(source.raw), str(source.folder)],
            code=graph.data_code(),
            role=role,
        threads: workflow.cores
        priority: 3  # seconds each, and on all cores: later they would have to wait for a training to end
        shell:
            "{sys.executable:q} -P -m medxvl.prepare {params.role} {ARGUMENTS} --workers {threads}"


def name_of(wildcards):
    return wildcards.variant.removeprefix(f"{variants.FOLDER}/").rstrip("/")


# The wildcard `variant` stands for another mask and seed than the preset's; it is empty for the preset's own.
for notebook in graph.NOTEBOOKS:

    rule:
        name:
            f"notebook_{notebook.name}"
        input:
            str(paths.NOTEBOOKS / f"{notebook.name}.ipynb"),
            [str(file) for file in notebook.files],
            [PRESET.prompts] if PRESET.prompts and "prompts" in notebook.groups else [],
            [f"data/{role}.json" for role in notebook.roles if notebook.prepared],
            lambda w, name=notebook.name: [s.file for s in variants.needs(variants.Step(name, name_of(w)), PRESET)],
        output:
            f"{{variant}}notebooks/{notebook.name}.ipynb",
        wildcard_constraints:
            variant=variants.PATTERN,
        params:
            name=notebook.name,
            variant=name_of,
            settings=lambda w, groups=notebook.groups: json.dumps(
                presets.group(variants.settings(PRESET, name_of(w)), *groups), sort_keys=True
            ),
            data=[str(SOURCES[role].folder) for role in notebook.roles if role in SOURCES],
            code=graph.code_hash(notebook.name),
        threads: lambda w, name=notebook.name: graph.threads(name, PRESET, name_of(w))
        priority: 2 * bool(notebook.threads) + notebook.long
        shell:
            "{sys.executable:q} -P -m medxvl.notebook {params.name} --variant={params.variant} {ARGUMENTS}"
