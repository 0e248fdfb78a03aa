"""Publish a checkpoint or a training run on the Hub.

    modeling-dlr convert last.ckpt my-model      official DLR, DSS or S4D checkpoint to model folder
    modeling-dlr card my-model --language en     write its model card
    modeling-dlr verify my-model                 check it, and load it without this package
    modeling-dlr push my-model me/my-model       verify, then upload in one commit

Exit codes: 0 success; 1 the folder is not ready; 2 invalid input; 3 the Hub refused; 4 the Hub has newer commits.
"""

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .card import CardOptions, write_card
from .convert import DTYPES, HEADS, convert
from .errors import HubUploadError, InputError, printable, reason_of
from .push import PushOptions, dry_run, local_files, push
from .repo_ids import check_repo_id
from .verify import verify

_CONVERT = """examples:
  modeling-dlr convert last.ckpt my-model
  modeling-dlr convert weights.safetensors my-model --hyper-parameters run.yaml
  modeling-dlr convert last.ckpt my-model --tokenizer my-tokenizer --head token
  modeling-dlr convert s4.ckpt my-model --hyper-parameters s4.json --dtype float64

Checkpoints are read as data, and no code in them is run. If a tensor is missing or left over, the error lists it.
"""
_CARD = """examples:
  modeling-dlr card outputs/news --language en --dataset "BBC News"
  modeling-dlr card my-model --repo-id me/my-model --limit "It knows British newspapers only."

Metrics, baselines and the recipe are read from results.json, if the folder has one.
"""
_VERIFY = """examples:
  modeling-dlr verify my-model

The folder is loaded in a new process that cannot import this package. With exit code 1, all problems are listed.
"""
_PUSH = """examples:
  modeling-dlr push my-model me/my-model --dry-run
  modeling-dlr push my-model me/my-model --private
  modeling-dlr push my-model me/my-model --pull-request
  modeling-dlr push my-model me/my-model --branch v2 --message "Train longer"
  modeling-dlr push my-model me/my-demo --repo-type space --model-id me/my-model

It needs an access token from `hf auth login` or in HF_TOKEN. With exit code 4, the repository has commits that this
folder does not know, and nothing was uploaded.
"""


def _run_convert(options: argparse.Namespace) -> None:
    done = convert(
        options.checkpoint,
        options.folder,
        hyper_parameters=options.hyper_parameters,
        head=options.head,
        tokenizer=options.tokenizer,
        dtype=options.dtype,
        card=_card_options(options),
    )
    if done.residual is not None:
        print(f"diagonalised the S4 kernels: the largest error is {done.residual:.1g} of the largest value")
    print(f"wrote {type(done.model).__name__} with {done.model.num_parameters():,} parameters to {options.folder}")


def _run_card(options: argparse.Namespace) -> None:
    print(f"wrote {write_card(options.folder, _card_options(options))}")


def _card_options(options: argparse.Namespace) -> CardOptions:
    if options.repo_id is not None:
        check_repo_id(options.repo_id)
    return CardOptions(
        repo_id=options.repo_id,
        title=options.title,
        license=options.license,
        language=options.language,
        dataset=options.dataset,
        limits=options.limit,
        picture=options.picture,
    )


def _run_verify(options: argparse.Namespace) -> None:
    for fact in verify(options.folder, trust_folder_code=options.trust_folder_code).facts:
        print(f"ok: {fact}")


def _run_push(options: argparse.Namespace) -> None:
    given = PushOptions(
        private=options.private,
        branch=options.branch,
        pull_request=options.pull_request,
        parent_commit=options.parent_commit,
        message=options.message,
        repo_type=options.repo_type,
        model_id=options.model_id,
        timeout=options.timeout,
        trust_folder_code=options.trust_folder_code,
    )
    if options.dry_run:
        sizes = local_files(options.folder, options.repo_id, given)
        print(f"{options.folder}: {len(sizes)} files with {sum(sizes.values()):,} bytes would be uploaded")
        print("\n".join(f"  {printable(name)} ({size:,} bytes)" for name, size in sizes.items()), flush=True)
        plan = dry_run(options.folder, options.repo_id, given)
        print(f"{options.repo_id}: {plan.describe()}")
        print("\n".join(map(printable, plan.lines())))
    else:
        done = push(options.folder, options.repo_id, given)
        print(done.pr_url or done.commit_url)


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="modeling-dlr", description=__doc__, formatter_class=raw)
    verbs = top.add_subparsers(dest="verb", required=True)

    def verb(name: str, run: Callable[[argparse.Namespace], None], summary: str, examples: str):
        added = verbs.add_parser(name, help=summary, description=summary, epilog=examples, formatter_class=raw)
        added.set_defaults(run=run)
        return added

    one = verb("convert", _run_convert, "official checkpoint to model folder", _CONVERT)
    one.add_argument("checkpoint", type=Path, help="Lightning .ckpt, bare state dict, or .safetensors")
    one.add_argument("folder", type=Path, help="to be made")
    one.add_argument("--hyper-parameters", type=Path, metavar="FILE", help="YAML or JSON, replaces the checkpoint's")
    one.add_argument("--head", choices=HEADS, help="one answer per sequence, token or pair; default: from the data set")
    one.add_argument("--tokenizer", help="folder or name of a tokenizer to save with a model of tokens")
    one.add_argument("--dtype", choices=DTYPES, default="float32", help="of the parameters")
    _add_card_options(one)
    one = verb("card", _run_card, "write the model card of a folder", _CARD)
    one.add_argument("folder", type=Path)
    _add_card_options(one)
    one = verb("verify", _run_verify, "check a folder, and load it without this package", _VERIFY)
    one.add_argument("folder", type=Path)
    _add_trust(one)
    one = verb("push", _run_push, "verify a folder, then upload it", _PUSH)
    one.add_argument("folder", type=Path)
    one.add_argument("repo_id", help="name/repository")
    one.add_argument("--private", action="store_true", help="create the repository as private; refuse a public one")
    one.add_argument("--branch", help="branch to push to; default: main")
    one.add_argument("--pull-request", action="store_true", help="open a pull request instead of writing to a branch")
    one.add_argument("--parent-commit", metavar="SHA", help="commit of the repository on which to build")
    one.add_argument("--message", default="Upload model", help="of the commit")
    one.add_argument("--dry-run", action="store_true", help="print what would change, and write nothing")
    one.add_argument("--repo-type", choices=["model", "space"], default="model", help="space: the model's demo page")
    one.add_argument("--model-id", help="for a space: the repository of the model; default: the space's name")
    one.add_argument("--timeout", type=float, metavar="SECONDS", help="time limit; default: 600, plus 10 per MB")
    _add_trust(one)
    return top


def _add_trust(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--trust-folder-code",
        action="store_true",
        help="also run Python code in the folder that is not this package's, in a process without tokens",
    )


def _add_card_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--repo-id", help="repository name in the card's examples; default: your-name/FOLDER")
    verb.add_argument("--title", help="title of the card; default: the folder's name")
    verb.add_argument("--license", default="apache-2.0", help="license of the weights, by its name on the Hub")
    verb.add_argument("--language", action="append", default=[], help="language of the texts, such as en; repeatable")
    verb.add_argument("--dataset", help="name of the training data; default: from results.json")
    verb.add_argument("--limit", action="append", default=[], help="a sentence on the model's limits; repeatable")
    verb.add_argument("--no-picture", dest="picture", action="store_false", help="do not draw the kernels")


@contextlib.contextmanager
def _ended_as_by_hand() -> Iterator[None]:
    """In this context, SIGTERM raises KeyboardInterrupt, so that the program cleans up as after Ctrl-C."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    options = parser().parse_args(arguments)
    try:
        with _ended_as_by_hand():
            options.run(options)
    except HubUploadError as error:
        print(f"modeling-dlr {options.verb}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"modeling-dlr {options.verb}: {printable(reason_of(error))}.", file=sys.stderr)
        return InputError.exit_code
    except KeyboardInterrupt:
        print("interrupted: no unfinished files are left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
