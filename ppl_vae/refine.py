def refine(pair, args, structure, *, subsample=None):
    return pair
