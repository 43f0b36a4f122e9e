"""Packs the release artefact from built binaries: see infra/release/build.

    python3 infra/release/package.py --compiler cargo-lambda|cargo --binaries DIR ARCHITECTURE…

DIR/ARCHITECTURE/NAME/bootstrap is the binary NAME. The same binaries and checkout give the same bytes.
"""

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import uuid
import zipfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "target/release-artefact"
TARGETS = {"arm64": "aarch64-unknown-linux-gnu", "x86_64": "x86_64-unknown-linux-gnu"}
CODE = re.compile(r"^( *CodeUri: *)target/lambda/([a-z-]+)/$", re.MULTILINE)
# Names of files with the terms of a licence, anywhere in a crate: ring has some below third_party.
TERMS = re.compile(r"(un)?licen[cs]es?([-._].*)?|(copying|notice|copyright)([-._].*)?", re.IGNORECASE)
NO_TERMS = {".rs", ".c", ".h", ".py", ".go", ".html"}


def run(*command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def digest(data):
    return hashlib.sha256(data).hexdigest()


class Graph:
    """Crates linked into the binaries: a crate is its name and version."""

    def __init__(self):
        metadata = json.loads(run("cargo", "metadata", "--locked", "--format-version", "1"))
        self.packages = {(p["name"], p["version"]): p for p in metadata["packages"]}
        self.package_of = {
            target["name"]: (package["name"], package["version"])
            for package in metadata["packages"]
            if package["source"] is None
            for target in package["targets"]
            if "bin" in target["kind"]
        }
        lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
        self.checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
        alias = tomllib.loads((ROOT / ".cargo/config.toml").read_text())["alias"]["functions"]
        # The packages that `cargo functions` builds, and so the features that it selects.
        self.functions = alias[alias.index("--workspace") :]

    def edges(self, target, name):
        """Returns the crates that each crate of a binary's build depends on, without proc macros and what
        only builds: neither is linked."""
        packages = ["--package", "tollgate-cli"] if name == "tollgate" else self.functions
        tree = run(
            *("cargo", "tree", "--locked", *packages, "--edges", "normal,no-proc-macro"),
            *("--target", target, "--prefix", "depth", "--format", "{p}|"),
        )
        edges, above = {}, []
        for line in filter(None, tree.splitlines()):
            depth, crate, version = re.match(r"(\d+)(\S+) v([^ |]+)", line).groups()
            del above[int(depth) :]
            edges.setdefault((crate, version), set())
            if above:
                edges[above[-1]].add((crate, version))
            above.append((crate, version))
        return edges


def linked(edges, crate):
    """Returns a crate and all that it depends on."""
    found, left = set(), [crate]
    while left:
        if (crate := left.pop()) not in found:
            found.add(crate)
            left.extend(edges[crate])
    return found


def expression(package):
    # Older crates write "/" for OR.
    return (package["license"] or "").replace("/", " OR ").replace("  ", " ")


def terms(package):
    """Returns the texts of a crate's licence, by their names in the crate."""
    root = Path(package["manifest_path"]).parent
    files = {
        file.relative_to(root).as_posix(): file
        for file in sorted(root.rglob("*"))
        if file.is_file() and TERMS.fullmatch(file.name) and file.suffix not in NO_TERMS
    }
    if file := package["license_file"]:
        files.setdefault(file, root / file)
    texts = {name: file.read_text(errors="replace").strip() for name, file in files.items()}
    if texts:
        return texts
    if "Apache-2.0" in expression(package):
        return {"Apache-2.0, not in the crate": (ROOT / "LICENSE-APACHE").read_text().strip()}
    if expression(package) == "MIT":
        authors = ", ".join(package["authors"]) or f"the authors of {package['name']}"
        text = (ROOT / "LICENSE-MIT").read_text().strip()
        text = re.sub(r"(?m)^Copyright.*$", f"Copyright (c) {authors}", text, count=1)
        return {"MIT, not in the crate": text}
    sys.exit(f"{package['name']} has no text of its licence, {expression(package)!r}; see {root}")


def toolchain_parts(compiler):
    """Returns what compilers link into each binary besides crates: name, version, expression, texts."""
    version = re.search(r"^release: (.*)$", run("rustc", "-vV"), re.MULTILINE)[1]
    documents = Path(run("rustc", "--print", "sysroot").strip()) / "share/doc/rust"
    notices = (documents / "COPYRIGHT-library.html").read_text()
    notices = re.sub(r"<[^>]+>", "", notices)
    for entity, character in {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&amp;": "&"}.items():
        notices = notices.replace(entity, character)
    notices = re.sub(r"\n(\s*\n)+", "\n\n", notices).strip()
    parts = [("Rust standard library", version, "MIT OR Apache-2.0", {"COPYRIGHT-library": notices})]
    if compiler == "cargo-lambda":
        tools = ROOT / "target/release-tools"
        [zig] = tools.glob("lib/python*/site-packages/ziglang")
        version = next(tools.glob("lib/python*/site-packages/ziglang-*.dist-info")).name.split("-")[1]
        version = version.removesuffix(".dist")
        texts = {"LICENSE": (zig / "LICENSE").read_text().strip()}
        parts.append(("Zig compiler-rt", version, "MIT", texts))
        texts = {"LICENSE.TXT": (zig / "lib/libunwind/LICENSE.TXT").read_text().strip()}
        parts.append(("LLVM libunwind, of Zig", version, "Apache-2.0 WITH LLVM-exception", texts))
    return parts


def vendored(path):
    """Returns what else than crates a binary contains, in the form of toolchain_parts."""
    if binary_of(path) != "api-docs":
        return []
    text = (ROOT / "functions/api-docs/assets/redoc.LICENSE.txt").read_text().strip()
    version = re.search(r'Version: "([^"]+)"', text)[1]
    # In the same file, and the part of it that advisories are about.
    sanitizer = re.search(r"DOMPurify ([0-9.]+)", text)[1]
    return [
        ("redoc", version, "MIT AND (Apache-2.0 OR MPL-2.0)", {"LICENSE": text}),
        ("dompurify", sanitizer, "Apache-2.0 OR MPL-2.0", {"LICENSE": text}),
    ]


def pack(binary, path, level):
    """Writes a zip with one file, `bootstrap`. Its bytes depend on the binary alone."""
    member = zipfile.ZipInfo("bootstrap", date_time=(1980, 1, 1, 0, 0, 0))
    member.compress_type = zipfile.ZIP_DEFLATED
    member.create_system = 3  # Unix, for the mode.
    member.external_attr = 0o100755 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, binary.read_bytes(), compresslevel=level)


def template_for(architecture):
    """Returns template.yaml with the zips, and with no other architecture than theirs."""
    text = (ROOT / "template.yaml").read_text()
    text, replaced = re.subn(
        r"(?m)^    Default: arm64\n    AllowedValues: \[arm64, x86_64\]$",
        f"    Default: {architecture}\n    AllowedValues: [{architecture}]",
        text,
    )
    if replaced != 1:
        sys.exit("infra/release/package.py does not find the parameter Architecture in template.yaml")
    text = CODE.sub(r"\1functions/\2.zip", text)
    if "target/lambda" in text:
        sys.exit("infra/release/package.py does not understand a CodeUri in template.yaml")
    return text


def licences(version, contents, graph, parts):
    """Returns LICENCES.md: what each file contains, under which licences, and their texts."""
    texts, numbers = {}, {}

    def numbered(named):
        found = []
        for text in named.values():
            number = numbers.setdefault(digest(text.encode()), len(numbers) + 1)
            texts[number] = text
            found.append(f"[{number}](#text-{number})")
        return ", ".join(dict.fromkeys(found))

    third_party = sorted({c for crates in contents.values() for c in crates if graph.checksums[c]})
    everywhere = set.intersection(*contents.values())
    lines = [
        f"# Licences of what Tollgate {version} contains",
        "",
        "Tollgate itself: MIT OR Apache-2.0. Each zip contains one file, the function's binary. Linked into",
        "it are the crates that its section lists, with those in all binaries, and parts of the compilers;",
        "a section also names what comes from another registry than crates.io.",
        "For a crate that comes without a text, the text of its licence is that of Tollgate's own copy.",
        "",
        "## Licences and their texts",
        "",
        "| crate or part | version | licence | texts |",
        "|---|---|---|---|",
    ]
    from_elsewhere = {part[0]: part for path in contents for part in vendored(path)}
    for name, of, licence, named in [*parts, *from_elsewhere.values()]:
        lines.append(f"| {name} | {of} | {licence} | {numbered(named)} |")
    for crate in third_party:
        package = graph.packages[crate]
        lines.append(f"| {crate[0]} | {crate[1]} | {expression(package)} | {numbered(terms(package))} |")

    def listed(crates):
        return [
            f"- {n} {v} ({expression(graph.packages[n, v])})"
            for n, v in sorted(crates)
            if graph.checksums[n, v]
        ]

    lines += ["", "## In all binaries", "", *listed(everywhere)]
    for path, crates in contents.items():
        found = [f"- {name} {of} ({licence}), of npm" for name, of, licence, _ in vendored(path)]
        found += listed(crates - everywhere)
        lines += ["", f"## In {path}", "", *(found or ["Nothing else."])]
    for number, text in texts.items():
        # A fence that is longer than any in the text.
        lines += ["", f"## Text {number}", "", "``````text", text, "``````"]
    return "\n".join(lines) + "\n"


def bill_of_materials(version, contents, edges, graph, parts, hashes, time):
    """Returns a CycloneDX 1.6 document: the files as applications, and the crates linked into them."""

    def reference(crate):
        name, of = crate
        return f"pkg:cargo/{name}@{of}" if graph.checksums[crate] else f"crate:{name}@{of}"

    def component(crate):
        package = graph.packages[crate]
        found = {"type": "library", "bom-ref": reference(crate), "name": crate[0], "version": crate[1]}
        if package["description"]:
            found["description"] = package["description"].strip()
        if checksum := graph.checksums[crate]:
            found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        found["licenses"] = [{"expression": expression(package)}]
        if graph.checksums[crate]:
            found["purl"] = reference(crate)
        if package["repository"]:
            found["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
        return found

    crates = sorted(set().union(*contents.values()))
    components = [
        {
            "type": "application",
            "bom-ref": path,
            "name": path,
            "version": version,
            "hashes": [{"alg": "SHA-256", "content": hashes[path]}],
            "licenses": [{"expression": "MIT OR Apache-2.0"}],
        }
        for path in contents
    ]
    components += [
        {
            "type": "library",
            "bom-ref": f"toolchain:{name}",
            "name": name,
            "version": of,
            "licenses": [{"expression": licence}],
        }
        for name, of, licence, _ in parts
    ]
    components += map(component, crates)
    purls = {}
    for path in contents:
        for name, of, licence, _ in vendored(path):
            purls.setdefault(path, []).append(f"pkg:npm/{name}@{of}")
            found = {"type": "library", "bom-ref": purls[path][-1], "name": name, "version": of}
            found |= {"licenses": [{"expression": licence}], "purl": purls[path][-1]}
            if found not in components:
                components.append(found)
    toolchain = [f"toolchain:{part[0]}" for part in parts]
    dependencies = [{"ref": f"tollgate@{version}", "dependsOn": list(contents)}]
    for path in contents:
        binary = reference(graph.package_of[binary_of(path)])
        dependencies.append({"ref": path, "dependsOn": [binary, *toolchain, *purls.get(path, [])]})
    dependencies += [
        {"ref": reference(crate), "dependsOn": sorted(map(reference, edges[crate]))} for crate in crates
    ]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": time,
            "tools": {"components": [{"type": "application", "name": "infra/release/package.py"}]},
            "component": {
                "type": "application",
                "bom-ref": f"tollgate@{version}",
                "name": "tollgate",
                "version": version,
                "licenses": [{"expression": "MIT OR Apache-2.0"}],
            },
        },
        "components": components,
        "dependencies": dependencies,
    }
    # Depends on the content alone.
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(document, sort_keys=True))
    document["serialNumber"] = f"urn:uuid:{serial}"
    return json.dumps(document, indent=1) + "\n"


def binary_of(path):
    name = Path(path).name
    return name.removesuffix(".zip") if name.endswith(".zip") else "tollgate"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--compiler", required=True, choices=["cargo-lambda", "cargo"])
    parser.add_argument("--binaries", required=True, type=Path)
    parser.add_argument("architectures", nargs="+", choices=TARGETS)
    options = parser.parse_args()

    graph = Graph()
    version = graph.package_of["tollgate"][1]
    if options.compiler == "cargo":
        # Never in the place of an archive that is fit for AWS.
        version += "-ci"
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct"))
    names = [match[2] for match in CODE.finditer((ROOT / "template.yaml").read_text())]
    release = OUTPUT / version
    shutil.rmtree(release, ignore_errors=True)
    (release / "bin").mkdir(parents=True)
    # Linked crates by file, and what each depends on.
    contents, edges = {}, {}

    for architecture in options.architectures:
        target = TARGETS[architecture]
        directory = release / architecture
        (directory / "functions").mkdir(parents=True)
        (directory / "template.yaml").write_text(template_for(architecture))
        shutil.copyfile(ROOT / "samconfig.toml", directory / "samconfig.toml")
        trees = {name: graph.edges(target, name) for name in ("functions", "tollgate")}
        for name in (*names, "tollgate"):
            binary = options.binaries / architecture / name / "bootstrap"
            if name == "tollgate":
                path = release / f"bin/tollgate-linux-{architecture}"
                shutil.copyfile(binary, path)
                path.chmod(0o755)
            else:
                path = directory / f"functions/{name}.zip"
                pack(binary, path, 9 if options.compiler == "cargo-lambda" else 1)
            tree = trees["tollgate" if name == "tollgate" else "functions"]
            crates = linked(tree, graph.package_of[name])
            contents[path.relative_to(release).as_posix()] = crates
            for crate in crates:
                edges.setdefault(crate, set()).update(tree[crate])

    parts = toolchain_parts(options.compiler)
    text = (ROOT / "infra/release/artefact.md").read_text()
    text = text.replace("VERSION", version).replace("ARCHITECTURE", options.architectures[0])
    (release / "README.md").write_text(text)
    (release / "LICENCES.md").write_text(licences(version, contents, graph, parts))
    for file in ("LICENSE-APACHE", "LICENSE-MIT", "shared/domain/src/plans.json"):
        shutil.copyfile(ROOT / file, release / Path(file).name)
    hashes = {path: digest((release / path).read_bytes()) for path in contents}
    time = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    sbom = bill_of_materials(version, contents, edges, graph, parts, hashes, time)
    (release / "sbom.cdx.json").write_text(sbom)

    files = sorted(file for file in release.rglob("*") if file.is_file())
    sums = [f"{digest(file.read_bytes())}  {file.relative_to(release).as_posix()}\n" for file in files]
    (release / "SHA256SUMS").write_text("".join(sums))
    files.append(release / "SHA256SUMS")

    archive = OUTPUT / f"tollgate-{version}.tar.gz"
    with gzip.GzipFile(archive, "wb", compresslevel=6, mtime=epoch) as compressed:
        with tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for file in sorted(files):
                name = f"tollgate-{version}/{file.relative_to(release).as_posix()}"
                member = tarfile.TarInfo(name)
                member.size = file.stat().st_size
                member.mode = 0o755 if file.parent.name == "bin" else 0o644
                member.mtime = epoch
                with file.open("rb") as content:
                    tar.addfile(member, content)
    archive.with_name(f"{archive.name}.sha256").write_text(
        f"{digest(archive.read_bytes())}  {archive.name}\n"
    )

    for path in contents:
        print(f"{(release / path).stat().st_size / 1e6:8.2f} MB  {path}")
    print(f"{archive.stat().st_size / 1e6:8.2f} MB  {archive.relative_to(ROOT)}")


main()
