def digests(paths):
    return [str(p) for p in paths]
