"""The names of a pipeline's classes, which model_index.json stores as `id2label` (DiT)."""

from collections import Counter

from fewstep.pipelines.files.folder import INDEX, Folder


def read_labels(folder: Folder, count: int) -> tuple[str, ...]:
    """Return a name for each class from 0 to `count` - 1; none if the folder does not name all of them.

    A class may have several names, separated by commas: the first is used. If several classes have the same first name,
    as the two cranes of ImageNet do, the number of the class is appended to it.
    """
    named = folder.index.get("id2label") if (folder.path / INDEX).is_file() else None
    texts = [named.get(str(number)) for number in range(count)] if isinstance(named, dict) else []
    names = [text.split(",")[0].strip() for text in texts if isinstance(text, str)]
    if len(names) < count or not all(name and name.isprintable() for name in names):
        return ()
    uses = Counter(name.casefold() for name in names)
    made = tuple(name if uses[name.casefold()] == 1 else f"{name} {number}" for number, name in enumerate(names))
    return made if len({name.casefold() for name in made}) == count else ()
