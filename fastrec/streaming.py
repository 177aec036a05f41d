"Ratings that stay in their parquet files: two passes for ids and counts, then rows in shuffled row groups, as often as training asks."
from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import torch
from fastcore.meta import delegates
from scipy.sparse import csr_matrix

from .catalog import Catalog
from .dataloaders import CHUNK_ROWS, InteractionDL, InteractionDataset, RecDataLoaders, auto_batch_size
from .files import BATCH, FileTable, Irregular, ids_of, ratings_of
from .interactions import Interactions, Vocab, _find_columns, _some
from .progress import Progress
from .splits import Split, everything

__all__ = ['ParquetStream', 'StreamDL', 'StreamDataLoaders']

PARTS = Split._fields
OPEN_FILES = 32
SEEN_ROWS = 2**25  # of users whose training rows are looked up at a time: 160 MiB
BUFFER = 2**22  # rows that are shuffled together: 48 MiB, and twice that while they are


class ParquetStream:
    """Ratings in parquet files that are larger than memory: vocab, counts and range of the ratings, after two passes, and the rows again whenever they are asked for, row group by row group.

    What is held is the ids, some numbers for each, and one part of a row group. A row is held out by `valid_pct` and `seed` alone, or as the column `splitter` says, so it is in the same part at each pass. That no pair of user and item repeats is not
    looked at: it would take all rows at once.
    """
    def __init__(self, path, given:dict=None, valid_pct:float=.2, seed:int=None, splitter:str=None, progress:bool=True):
        import pyarrow.parquet as pq
        table = FileTable(path)
        self.files = table.files
        try: self.names = _find_columns(pd.DataFrame(columns=table.names()), given or dict(user=None, item=None, rating=None, time=None))
        except ValueError as e: raise ValueError(f'{self.files[0]}: {e}') from e
        if self.names['rating'] is None: raise ValueError(f"{self.files[0]} has no rating column to learn from. Name it with rating_name=; rows without ratings are implicit feedback, which is not streamed: read it, from_parquet(..., target='implicit')")
        if splitter is None and not 0 <= valid_pct < 1: raise ValueError(f'valid_pct={valid_pct}: a share between 0 and 1, or 0 to train on every row')
        if splitter is not None and splitter not in table.names(): raise ValueError(f'no column {splitter!r} to split by')
        self.valid_pct, self.splitter, self.seed = valid_pct, splitter, int(np.random.default_rng(seed).integers(2**31)) if seed is None else seed
        self.columns = [self.names[o] for o in ('user', 'item', 'rating')] + ([] if splitter is None else [splitter])
        self.groups, self._open = [], {}  # (file, row group, rows)
        types = None
        for i, file in enumerate(self.files):
            meta, schema = pq.read_metadata(file), pq.read_schema(file)
            if missing := [o for o in self.columns if o not in schema.names]: raise ValueError(f'{file} has no column {missing[0]!r}, which {self.files[0]} has')
            mine = [str(schema.field(o).type).removeprefix('large_') for o in self.columns[:2]]
            if types is None: types = mine
            elif mine != types: raise ValueError(f'ids are of one type in {self.files[0]} ({", ".join(types)}) and of another in {file} ({", ".join(mine)}): 1 and \'1\' would be two. Make them one')
            self.groups += [(i, g, meta.row_group(g).num_rows) for g in range(meta.num_row_groups) if meta.row_group(g).num_rows]
        self.n = sum(rows for *_, rows in self.groups)
        if not self.n: raise ValueError('the table is empty: it needs one row per interaction')
        self.vocab = self._ids(progress)
        self._count(progress)

    def __getstate__(self): return {**self.__dict__, '_open': {}}

    def _file(self, i):
        import pyarrow.parquet as pq
        if i not in self._open:
            if len(self._open) >= OPEN_FILES: self._open.pop(next(iter(self._open)))  # closed when nobody reads it any more
            self._open[i] = pq.ParquetFile(self.files[i])
        return self._open[i]

    def _parts(self, group, columns):
        i, g, _ = self.groups[group]
        for part in self._file(i).iter_batches(BATCH, row_groups=[g], columns=columns, use_threads=False): yield part

    def _complain(self, part, group):
        "Say what is wrong with a part, as of a table."
        i, g, _ = self.groups[group]
        where = f'{self.files[i]}, row group {g}'
        try: Interactions.from_df(part.to_pandas(), *(self.names[o] for o in ('user', 'item', 'rating')), time_name=False, duplicates='keep')
        except ValueError as e:
            if 'single' not in str(e): raise ValueError(f'{where}: {e}') from None
        raise ValueError(f'{where}: columns {self.columns[:3]} of types {[str(part.schema.field(o).type) for o in self.columns[:3]]} cannot be streamed. Make ids integers or texts and ratings numbers, or read the file as a whole, without stream=True')

    def _ids(self, progress):
        known = {side: [] for side in ('user', 'item')}
        together = lambda ids: np.unique(np.concatenate(ids)) if isinstance(ids[0], np.ndarray) else pd.Series(pd.unique(pd.concat(ids)))
        with Progress(self.n, 'ids', 'rows', progress) as bar:
            for group in range(len(self.groups)):
                for part in self._parts(group, self.columns[:2]):
                    for side, ids in known.items():
                        try: values = ids_of(part.column(self.names[side]))
                        except Irregular: self._complain(next(self._parts(group, self.columns[:3])), group)
                        ids.append(pd.unique(values) if isinstance(values, np.ndarray) else values.unique().to_pandas())
                        if sum(map(len, ids)) > 2 * len(ids[0]) + 2**21: ids[:] = [together(ids)]
                    bar.update(len(part))
        vocab = {side: Vocab(together(ids) if isinstance(ids[0], np.ndarray) else pd.Index(together(ids)).sort_values(), side) for side, ids in known.items()}
        for side, o in vocab.items():
            if len(o) == 1: raise ValueError(f'the files have a single {side} ({o.ids[0]!r}, column {self.names[side]!r}): collaborative filtering learns from what several {side}s share. Is {side}_name right?')
        return vocab

    def _count(self, progress):
        self.counts = [{side: np.zeros(len(o), np.int64) for side, o in self.vocab.items()} for _ in PARTS]
        self.sizes, total, self.low, self.high = [0] * len(PARTS), 0., np.inf, -np.inf
        with Progress(self.n, 'counts', 'rows', progress) as bar:
            for group in range(len(self.groups)):
                for users, items, ratings, parts in self.read(group):
                    self.low, self.high = min(self.low, float(ratings.min())), max(self.high, float(ratings.max()))
                    for p in range(len(PARTS)):
                        mask = parts == p
                        self.sizes[p] += int(mask.sum())
                        for side, codes in (('user', users), ('item', items)): _add_counts(self.counts[p][side], codes[mask])
                        if not p: total += ratings[mask].sum(dtype=np.float64)
                    bar.update(len(users))
        for name, size in zip(PARTS[:2], self.sizes):
            if not size and (name == 'train' or self.splitter is not None or self.valid_pct): raise ValueError(f'the {name} part of the split is empty ({self.n:,} rows in all)')
        if self.high > 1e8: raise ValueError(f"column {self.names['rating']!r} looks like a timestamp (values from {self.low:.0f} to {self.high:.0f}), not a rating. Pass rating_name=")
        self.mean = total / self.sizes[0]

    def read(self, group:int):
        "Parts of a row group: int32 users and items, float32 ratings, and which part of the split each row is in (int8: 0 train, 1 valid, 2 test)."
        rng = np.random.default_rng([self.seed, group])
        for part in self._parts(group, self.columns):
            try: users, items, ratings = (ids_of(part.column(self.columns[0])), ids_of(part.column(self.columns[1])), ratings_of(part.column(self.columns[2])))
            except Irregular: self._complain(part, group)
            codes = [self.vocab[side].ids.get_indexer(ids if isinstance(ids, np.ndarray) else ids.to_pandas().array).astype(np.int32) for side, ids in (('user', users), ('item', items))]
            if min(o.min() for o in codes) < 0: raise ValueError(f'{self.files[self.groups[group][0]]} has other ids than when it was read first: files of a stream must stay as they are. Make the loaders again')
            yield *codes, ratings, (rng.random(len(ratings)) < self.valid_pct).astype(np.int8) if self.splitter is None else self._told(part.column(self.splitter), group)

    def _told(self, column, group):
        values = column.to_pandas()
        if not values.isna().any():
            if pd.api.types.is_bool_dtype(values.dtype): return values.to_numpy().astype(np.int8)
            codes = pd.Categorical(values, categories=list(PARTS)).codes
            if codes.min() >= 0: return codes.astype(np.int8)
        raise ValueError(f"{self.files[self.groups[group][0]]}: column {self.splitter!r} says the split: booleans (True for valid) or the words 'train', 'valid', 'test', none missing")

    def rows_of(self, users):
        "Rows of the users of a bool mask (n_users,), of all row groups that may have any: users, items, ratings, parts."
        ids = self.vocab['user'].ids[users]
        for group in range(len(self.groups)):
            if not self._may_have(group, ids): continue
            for codes, *columns in self.read(group):
                mask = users[codes]
                if mask.any(): yield codes[mask], *(o[mask] for o in columns)

    def _may_have(self, group, ids):
        "Can a row group hold any of the (ascending) ids, by the bounds in the file? In a file in the order of users few can."
        i, g, _ = self.groups[group]
        meta = self._file(i).metadata
        at = next((j for j in range(meta.num_columns) if meta.row_group(g).column(j).path_in_schema == self.columns[0]), None)
        bounds = None if at is None else meta.row_group(g).column(at).statistics
        if bounds is None or not bounds.has_min_max: return True
        try: a, b = np.searchsorted(ids, bounds.min, 'left'), np.searchsorted(ids, bounds.max, 'right')
        except TypeError: return True
        return b > a


def _add_counts(counts, codes):
    "Add how often each code comes, in place: not by a pass over all counts where they are many."
    if len(counts) < 4 * len(codes): counts += np.bincount(codes, minlength=len(counts))
    else: np.add.at(counts, codes, 1)


class StreamedSeen:
    "What users have in the training rows of a stream, by code as in a CSR matrix: read for as many users at a time as the budget allows, in the order in which `recommend` asks."
    def __init__(self, stream, users, shape): self.stream, self.users, self.shape, self.matrix, self.there = stream, users, shape, None, np.zeros(shape[0], bool)

    def __getitem__(self, codes):
        if not self.there[codes].all():
            at = np.flatnonzero(self.users == codes[0])[0]
            n = np.cumsum(self.stream.counts[0]['user'][self.users[at:]])
            self.there[:] = False
            self.there[codes] = self.there[self.users[at:at + np.searchsorted(n, SEEN_ROWS)]] = True
            found = [(users[parts == 0], items[parts == 0]) for users, items, _, parts in self.stream.rows_of(self.there)]
            users, items = (np.concatenate(o) for o in zip(*found)) if found else (np.zeros(0, np.int32),) * 2
            self.matrix = csr_matrix((np.ones(len(users), np.int8), (users, items)), shape=self.shape)
        return self.matrix[codes]


class StreamCatalog(Catalog):
    "The catalog of rows that stay in their files: `interactions` and `split` are None, what needs all rows says what to do instead."
    def __init__(self, stream, item_df=None, user_df=None, title_name:str=None):
        self._describe(stream.vocab, stream.names, item_df, user_df, title_name)
        self.stream, self.interactions, self.split, self.thresholds, self.context_of = stream, None, None, None, None
        self.counts, self.mean_rating = stream.counts[0], stream.mean

    def require_history(self, way=None):
        "`ValueError` with the way out: the rows are not in memory."
        raise ValueError('this needs all rows in memory, and these loaders stream them from files. Take those of some users, as in `evaluate(learn, dls.of_users(10_000))`, or read everything: RecDataLoaders.from_parquet(...) without stream=True, '
                         'which takes 20 bytes a row' + (f'. {way}' if way else ''))

    def seen_of(self, users):
        "What `users` (codes) have in the training rows, to be indexed with codes."
        return StreamedSeen(self.stream, users, (self.n_users, self.n_items))

    def fingerprint(self, part:str='data')->str:
        "16 hex digits that change with any id or count, the range of the ratings, or ('split') with how rows are held out; the rows themselves are not read for it."
        if part not in ('data', 'split'): raise ValueError(f"part={part!r}: 'data' or 'split'")
        s, digest = self.stream, hashlib.blake2b(digest_size=8)
        if part == 'split': digest.update(repr((s.valid_pct, s.seed, s.splitter, s.sizes)).encode())
        else:
            for side, vocab in s.vocab.items(): digest.update(pd.util.hash_array(vocab.ids.to_numpy()).tobytes() + sum(o[side] for o in s.counts).tobytes())
            digest.update(repr((s.groups, s.low, s.high)).encode())
        return digest.hexdigest()

    def without_history(self):
        "As in `Catalog`; the files are left behind, too."
        res = super().without_history()
        del res.stream
        return res

    def __repr__(self): return f"Catalog({len(self.vocab['user']):,} users, {len(self.vocab['item']):,} items, {self.stream.n:,} rows in {len(self.stream.files):,} file{'s' if len(self.stream.files) > 1 else ''})"


class StreamDataset:
    "The rows of one part of a `ParquetStream`: `InteractionDataset` without the rows."
    n_inp = 2

    def __init__(self, stream, part:int, catalog): self.stream, self.part, self.catalog = stream, part, catalog

    def __len__(self): return self.stream.sizes[self.part]

    def read(self, groups):
        "int32 users, int32 items and float32 ratings (tensors), part by part, of the row groups in this order."
        for group in groups:
            for *columns, parts in self.stream.read(int(group)):
                mask = parts == self.part
                if mask.any(): yield tuple(torch.from_numpy(o[mask]) for o in columns)

    def new_empty(self):
        "No rows, and a catalog without history and files."
        return InteractionDataset([torch.zeros(0, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(0)], None, self.catalog.without_history())

    def with_catalog(self, catalog):
        "The same rows under a catalog that knows further items."
        return StreamDataset(self.stream, self.part, catalog)

    def subset(self, users, items): self.catalog.require_history()

    @property
    def items(self): self.catalog.require_history()


@delegates()
class StreamDL(InteractionDL):
    """Batches as of `InteractionDL`, from row groups of files: with `shuffle` in a new order at each epoch, `buffer` rows at a time shuffled together.

    Every row comes once an epoch. Rows of a row group stay within a buffer of each other: where a file is in the order of users or of time and its row groups are large, a larger buffer mixes better.
    """
    def __init__(self, dataset, buffer:int=BUFFER, **kwargs):
        if buffer < 1: raise ValueError(f'buffer={buffer}: rows that are shuffled together, at least 1')
        self.buffer = buffer
        super().__init__(dataset, **{**kwargs, 'indexed': True})  # fastai shuffles only what it can index

    def new(self, dataset=None, cls=None, **kwargs):
        if dataset is not None and not isinstance(dataset, StreamDataset): return super().new(dataset, InteractionDL if cls is None else cls, **kwargs)
        return super().new(dataset, cls, **{**dict(buffer=self.buffer), **kwargs})

    def _one_pass(self): self._n_inp, self._types = self.dataset.n_inp, {tuple: [torch.Tensor] * 3}

    def get_idxs(self):
        "Positions in the order of the files, by which `get_preds` sorts; of shuffled rows there are none."
        if self.shuffle: raise ValueError('shuffled rows of a stream have no order to give predictions in: take the loader with `dl.new(shuffle=False)`')
        return torch.arange(self.n)

    def order(self): return None

    def one_batch(self):
        "A batch, from the first rows that are read: a buffer is not filled for it."
        before, self.buffer = self.buffer, self.bs
        try: return super().one_batch()
        finally: self.buffer = before

    def create_batches(self, samps):
        if not self.n: return
        device, rest = torch.device('cpu') if self.device is None else self.device, None
        for columns in self._buffers():
            if rest is not None: columns = [torch.cat(o) for o in zip(rest, columns)]
            whole = len(columns[0]) // self.bs * self.bs
            rest = [o[whole:].clone() for o in columns]
            if not whole: continue
            for chunk in zip(*(o[:whole].split(max(1, CHUNK_ROWS // self.bs) * self.bs) for o in columns)):
                users, items, ratings = (o.to(device) for o in chunk)
                yield from zip(*(o.split(self.bs) for o in (users.long(), items.long(), ratings)))
        if rest is not None and len(rest[0]) and not self.drop_last:
            users, items, ratings = (o.to(device) for o in rest)
            yield users.long(), items.long(), ratings

    def _buffers(self):
        "Columns of some rows, in the order in which they are to come."
        n = len(self.dataset.stream.groups)
        if not self.shuffle:
            yield from self.dataset.read(range(n))
            return
        generator, parts, size = self.generator(torch.device('cpu')), [], 0
        mixed = lambda: [o[order] for order in [torch.randperm(size, generator=generator)] for o in map(torch.cat, zip(*parts))]
        for part in self.dataset.read(torch.randperm(n, generator=generator)):
            parts.append(part)
            size += len(part[0])
            if size >= self.buffer:
                yield mixed()
                parts, size = [], 0
        if parts: yield mixed()


class StreamDataLoaders(RecDataLoaders):
    """`RecDataLoaders` of ratings that stay in their files: what `RecDataLoaders.from_parquet(..., stream=True)` makes.

    Training, `lr_find`, errors of the valid part, `get_preds`, `predict` and `recommend` work as ever; seen items are looked up in the files, in one pass for millions of rows. What needs all rows at once says so; `of_users` has those of some users.
    """
    @classmethod
    def of_stream(cls, file, columns=None, buffer:int=BUFFER, valid_pct:float=.2, seed:int=None, splitter:str=None, item_df=None, user_df=None, user_name:str=None, item_name:str=None, rating_name:str=None, time_name:str=None,
                  title_name:str=None, target:str='rating', bs:int=None, path='.', device=None, **others):
        "Loaders of files; arguments as in `RecDataLoaders.from_parquet`."
        read = 'read the rows instead, from_parquet without stream=True: that takes 20 bytes a row'
        if target != 'rating': raise ValueError(f'target={target!r}: only ratings are streamed, since negatives and thresholds ask what else a user has; {read}')
        if columns is not None: raise ValueError('columns= is for tables that are read: of a stream only the columns of users, items and ratings are')
        if others: raise ValueError(f'{_some(others)}: not for a stream, which cannot look for repeated pairs and has neither negatives nor weights; {read}')
        if splitter is not None and not isinstance(splitter, str): raise ValueError(f"splitter={splitter!r}: a splitter looks at all rows. Stream with valid_pct= and seed=, or with a column that says the part (splitter='column'); or {read}")
        stream = ParquetStream(file, dict(user=user_name, item=item_name, rating=rating_name, time=False), valid_pct, seed, splitter)
        catalog = StreamCatalog(stream, item_df, user_df, title_name)
        bs = auto_batch_size(stream.sizes[0]) if bs is None else bs
        res = cls(*(StreamDL(StreamDataset(stream, p, catalog), buffer, bs=max(bs, 4096) if p else bs, shuffle=not p) for p in range(len(PARTS)) if p < 2 or stream.sizes[p]), path=path, device=device)
        res.split_by = f'column {splitter!r}' if splitter is not None else 'all rows for training' if not valid_pct else f'random rows of a stream: valid_pct={valid_pct:g}, seed={stream.seed}'
        return res

    @property
    def stream(self)->ParquetStream: return self.train.dataset.stream

    @property
    def y_bounds(self)->tuple:
        "Lowest and highest rating of the files."
        return self.stream.low, self.stream.high

    def standing_of_valid(self, scorer)->dict:
        "Group of `standing` -> share of the valid rows; of those that are not warm at most so many, since users and items were counted apart."
        held, known = self.stream.counts[1], self.catalog.known
        if not self.stream.sizes[1]: return dict(all=1.)
        without = lambda has: min(1., sum(int(held[side][~has(side)].sum()) for side in held) / self.stream.sizes[1])
        new, cold = without(known), without(lambda side: known(side) | scorer.informed(side))
        return {k: v for k, v in dict(all=1., warm=1 - new, features=new - cold, cold=cold).items() if v > 0 and (k == 'all' or new)}

    def summary(self)->str:
        "Users, items, rows and density, rows per user and item, and how many of them are in each part."
        s = self.stream
        lines = [f'{s.n:,} rows in {len(s.groups):,} row groups of {len(s.files):,} file{"s" if len(s.files) > 1 else ""}, {self.n_users:,} users, {self.n_items:,} items, density {s.n/self.n_users/self.n_items:.3%}, '
                 f'ratings {s.low:g} to {s.high:g} (mean of training rows {s.mean:.2f})']
        for side, counts in s.counts[0].items():
            q = np.quantile(counts[counts > 0], [0, .25, .5, .75, 1])
            lines.append(f'training rows per {side}: min {q[0]:.0f}, quartiles {q[1]:.0f} / {q[2]:.0f} / {q[3]:.0f}, max {q[4]:.0f}; without any: {int((counts == 0).sum()):,}')
        return '\n'.join(lines + [f'{name}: {n:,} rows, {int((c["user"] > 0).sum()):,} users, {int((c["item"] > 0).sum()):,} items' for name, n, c in zip(PARTS, s.sizes, s.counts) if n])

    def of_users(self,
        users, # ids, or how many to draw at random of those with valid rows
        seed:int=0 # of that draw
    )->RecDataLoaders:
        "All rows of some users, in memory: loaders of the same ids and the same split, to evaluate on, `evaluate(learn, dls.of_users(10_000))`, and for whatever else needs rows."
        stream, catalog = self.stream, self.catalog
        if np.isscalar(users) and not isinstance(users, str):
            there = np.flatnonzero(stream.counts[1 if stream.sizes[1] else 0]['user'])
            codes = np.random.default_rng(seed).choice(there, min(int(users), len(there)), replace=False)
        else: codes = catalog.vocab['user'].encode(users)
        mask = np.zeros(catalog.n_users, bool)
        mask[codes] = True
        if not (found := list(stream.rows_of(mask))): raise ValueError('none of the users has a row in the files')
        u, i, ratings, parts = map(np.concatenate, zip(*found))
        inter = Interactions(u, i, ratings, None, stream.vocab, stream.names, no_times='a stream reads no times')
        split = Split(*(np.flatnonzero(parts == p) for p in range(len(PARTS)) if p < 2 or stream.sizes[p]))
        res = RecDataLoaders.from_interactions(inter, split if stream.sizes[1] else everything, catalog.item_df, catalog.user_df, catalog.title_name, bs=self.train.bs if len(split.train) >= 20 * self.train.bs else None, path=self.path, device=self.device)
        res.catalog.counts, res.catalog.mean_rating, res.split_by = catalog.counts, catalog.mean_rating, f'{self.split_by}; {int(mask.sum()):,} of {catalog.n_users:,} users'
        return res

    def new_empty(self):
        "As in `RecDataLoaders`: no rows, and no files."
        return RecDataLoaders(*(dl.new(dl.dataset.new_empty()) for dl in self.loaders), path=self.path, device=self.device)
