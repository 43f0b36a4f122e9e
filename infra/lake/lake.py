"""The lake of template.yaml on this machine: Parquet files of its table's columns, and DuckDB for its queries."""

import json
from pathlib import Path

import duckdb
import sqlglot
import yaml

ROOT = Path(__file__).resolve().parents[2]


class Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as a mapping from the name of the function to its argument."""


def short_form(loader, name, node):
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    return {name: loader.construct_sequence(node, deep=True)}


Loader.add_multi_constructor("!", short_form)
RESOURCES = yaml.load((ROOT / "template.yaml").read_text(), Loader)["Resources"]


def properties(resource):
    return RESOURCES[resource]["Properties"]


def columns():
    """Returns the types of the table's columns, as DuckDB writes them."""
    listed = properties("LakeTable")["TableInput"]["StorageDescriptor"]["Columns"]
    types = {}
    for column in listed:
        # A space would make Hive reject the type.
        assert " " not in column["Type"], column["Name"]
        parsed = sqlglot.parse_one(column["Type"], into=sqlglot.exp.DataType, dialect="hive")
        types[column["Name"]] = parsed.sql("duckdb")
    return types


def queries():
    """Returns the text of each saved query by its name."""
    # Loops are lists.
    resources = [resource for resource in RESOURCES.values() if isinstance(resource, dict)]
    named = [one["Properties"] for one in resources if one["Type"] == "AWS::Athena::NamedQuery"]
    return {query["Name"]: query["QueryString"] for query in named}


class Lake:
    """A lake in a directory. Events arrive on a day, and become one file."""

    def __init__(self, directory):
        self.usage = Path(directory) / "usage"
        self.database = duckdb.connect()
        stream = properties("LakeStream")["ExtendedS3DestinationConfiguration"]
        assert stream["Prefix"] == "usage/day=!{timestamp:yyyy-MM-dd}/"
        formats = stream["DataFormatConversionConfiguration"]["InputFormatConfiguration"]
        self.keys = formats["Deserializer"]["OpenXJsonSerDe"]["ColumnToJsonKeyMappings"]

    def deliver(self, day, events):
        """Writes events of the bus as Firehose does: members without a column are left out, missing ones are null.
        Returns the size of the file in bytes. An event that does not fit the types is an error."""
        partition = self.usage / f"day={day}"
        partition.mkdir(parents=True, exist_ok=True)
        lines = partition / "events.json"
        types = columns()
        with lines.open("w") as file:
            for event in events:
                row = {name: event[key] for name in types if (key := self.keys.get(name, name)) in event}
                file.write(json.dumps(row) + "\n")
        parquet = partition / f"{len(list(partition.iterdir()))}.parquet"
        self.database.execute(
            f"COPY (SELECT * FROM read_json('{lines}', format = 'newline_delimited', columns = {types})) "
            f"TO '{parquet}' (FORMAT parquet, COMPRESSION snappy)"
        )
        lines.unlink()
        return parquet.stat().st_size

    def query(self, name, parameters):
        """Returns the rows of a saved query."""
        self.database.execute(
            f"CREATE OR REPLACE VIEW usage_events AS SELECT * FROM read_parquet('{self.usage}/*/*.parquet', "
            "hive_partitioning = true, hive_types = {'day': VARCHAR})"
        )
        [translated] = sqlglot.transpile(queries()[name], read="athena", write="duckdb")
        return self.database.execute(translated, parameters).fetchall()
