# Which notebook runs after which, and when one runs again. `./run_all.sh` calls this; by hand:
#   snakemake -s Snakefile --directory runs/demo --cores 2 --config preset=demo
# A notebook runs again when its file, a setting of its groups, its data or the code it imports
# changed (params), or when something it needs ran again or changed (input). The run id is no
# parameter: it changes nothing but a column.
import json
import os
import shlex
import sys

sys.path.insert(0, workflow.basedir)
from data_prep import code
from medxvl.config import fingerprints, notebooks, paths, presets, roles, sweeps, threads

PRESET = presets.load(config["preset"], config.get("overrides", ""))
SOURCES = roles.sources(PRESET, config.get("data", ""))
ARGUMENTS = shlex.join(
    [
        *("--preset", PRESET.name),
        *("--overrides", config.get("overrides", "")),
        *("--data", config.get("data", "")),
    ]
)

os.environ.setdefault("MEDXVL_RUN", "")
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(paths.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)


envvars:
    "MEDXVL_RUN",
    "PYTHONPATH",


rule all:
    input:
        [step.file for step in sweeps.steps(notebooks.select([]), PRESET)],
    default_target: True


rule phantom:
    output:
        "data/phantom.json",
    params:
        settings=[PRESET.studies, PRESET.phantom_seed, str(roles.phantom_raw(PRESET))],
        code=code.digest_of("data_prep.phantom.write"),
    threads: workflow.cores
    shell:
        "{sys.executable:q} -P -m medxvl.pipeline prepare phantom {ARGUMENTS} --workers {threads}"


def code_of_dataset(name):
    """The code that reads the dataset `name` and writes its prepared form."""
    reader = f"data_prep.datasets.{name}"
    return code.digest_of("data_prep.prepared.preparation", reader, only=name)


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
            code=code_of_dataset(source.name),
            role=role,
        threads: workflow.cores
        # seconds each, and on all cores: later they would have to wait for a training to end
        priority: 3
        shell:
            "{sys.executable:q} -P -m medxvl.pipeline prepare {params.role} {ARGUMENTS} "
            "--workers {threads}"


def name_of(wildcards):
    return wildcards.variant.removeprefix(f"{sweeps.FOLDER}/").rstrip("/")


def needs(name):
    """Executed notebooks that a run of the notebook `name` reads, as a function of wildcards."""
    return lambda w: [s.file for s in sweeps.needs(sweeps.Step(name, name_of(w)), PRESET)]


# The wildcard `variant` stands for another mask and seed than the preset's; it is empty for the
# preset's own.
for notebook in notebooks.NOTEBOOKS:

    rule:
        name:
            f"notebook_{notebook.name}"
        input:
            str(paths.NOTEBOOKS / f"{notebook.name}.ipynb"),
            [str(file) for file in notebook.files],
            [PRESET.prompts] if PRESET.prompts and "prompts" in notebook.groups else [],
            [f"data/{role}.json" for role in notebook.roles if notebook.prepared],
            needs(notebook.name),
        output:
            f"{{variant}}notebooks/{notebook.name}.ipynb",
        wildcard_constraints:
            variant=sweeps.PATTERN,
        params:
            name=notebook.name,
            variant=name_of,
            settings=lambda w, groups=notebook.groups: json.dumps(
                presets.group(sweeps.settings(PRESET, name_of(w)), *groups), sort_keys=True
            ),
            data=[str(SOURCES[role].folder) for role in notebook.roles if role in SOURCES],
            code=fingerprints.notebook_code(notebook.name),
            cpus=lambda w, name=notebook.name: threads.threads(name, PRESET, name_of(w)),
        threads: lambda w, name=notebook.name: threads.threads(name, PRESET, name_of(w))
        priority: 2 * bool(notebook.threads) + notebook.long
        shell:
            "{sys.executable:q} -P -m medxvl.pipeline notebook {params.name} "
            "--variant={params.variant} {ARGUMENTS}"
