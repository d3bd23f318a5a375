def write(f):
    return f[0]

