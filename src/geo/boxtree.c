/*-------------------------------------------------------------------------
 *
 * boxtree.c
 *	  Which of many boxes meet a box: a packed R-tree.
 *
 * The tree is built once and never changed.  Boxes are sorted so that those near
 * each other are together: in stripes from west to east, and within a stripe from
 * south to north (sort-tile-recursive).  Then each FANOUT in a row have a box
 * around them one level up, until one node has all that is left.  So the children of
 * a node are known by its number, and a tree is nothing but arrays:
 *
 *	boxes	level 0 (the items' boxes, sorted), level 1, .. up to the root's children
 *	items	of each box of level 0, which one it was
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/boxtree.c
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>
#include <stdlib.h>

#include "geo/boxtree.h"

#define FANOUT		16
#define MAX_LEVELS	8			/* of 16^8 items, more than an int counts */

struct FleetGeoBoxTree
{
	FleetGeoAllocator allocator;
	FleetGeoBox *boxes;
	int32_t    *items;
	int			nlevel;			/* 0: no item */
	int			first[MAX_LEVELS];	/* box of each level */
	int			count[MAX_LEVELS];
};

/* A box on its way to its place. */
typedef struct Entry
{
	FleetGeoBox box;
	int32_t		item;
} Entry;

/* The sums are twice the centres, which is as good for an order. */
static int
compare_x(const void *left, const void *right)
{
	double		a = ((const Entry *) left)->box.west + ((const Entry *) left)->box.east;
	double		b = ((const Entry *) right)->box.west + ((const Entry *) right)->box.east;

	return (a > b) - (a < b);
}

static int
compare_y(const void *left, const void *right)
{
	double		a = ((const Entry *) left)->box.south + ((const Entry *) left)->box.north;
	double		b = ((const Entry *) right)->box.south + ((const Entry *) right)->box.north;

	return (a > b) - (a < b);
}

/* As many stripes as there are nodes in each, about. */
static void
sort_entries(Entry *entries, int count)
{
	int			nodes = (count + FANOUT - 1) / FANOUT;
	int			stripes = (int) ceil(sqrt((double) nodes));
	int			size = stripes * FANOUT;

	qsort(entries, count, sizeof(Entry), compare_x);
	for (int i = 0; i < count; i += size)
		qsort(entries + i, count - i < size ? count - i : size, sizeof(Entry), compare_y);
}

/* Where each level begins; returns how many boxes there are in all. */
static int
lay_out(FleetGeoBoxTree *tree, int count)
{
	int			sum = 0;

	while (count > 0)
	{
		tree->first[tree->nlevel] = sum;
		tree->count[tree->nlevel++] = count;
		sum += count;
		count = count > FANOUT ? (count + FANOUT - 1) / FANOUT : 0;
	}
	return sum;
}

static void
widen(FleetGeoBox *box, const FleetGeoBox *by)
{
	box->west = fmin(box->west, by->west);
	box->south = fmin(box->south, by->south);
	box->east = fmax(box->east, by->east);
	box->north = fmax(box->north, by->north);
}

/* The boxes of a level, around those of the level below. */
static void
fill_level(FleetGeoBoxTree *tree, int level)
{
	const FleetGeoBox *below = tree->boxes + tree->first[level - 1];
	FleetGeoBox *boxes = tree->boxes + tree->first[level];

	for (int i = 0; i < tree->count[level - 1]; i++)
	{
		if (i % FANOUT == 0)
			boxes[i / FANOUT] = below[i];
		else
			widen(&boxes[i / FANOUT], &below[i]);
	}
}

static void
fill(FleetGeoBoxTree *tree, const FleetGeoBox *boxes, Entry *entries, int count)
{
	for (int i = 0; i < count; i++)
	{
		entries[i].box = boxes[i];
		entries[i].item = i;
	}
	sort_entries(entries, count);
	for (int i = 0; i < count; i++)
	{
		tree->boxes[i] = entries[i].box;
		tree->items[i] = entries[i].item;
	}
	for (int level = 1; level < tree->nlevel; level++)
		fill_level(tree, level);
}

FleetGeoBoxTree *
fleet_geo_boxtree_build(const FleetGeoAllocator *allocator, const FleetGeoBox *boxes, int count)
{
	FleetGeoBoxTree *tree = allocator->alloc(allocator->ctx, sizeof(FleetGeoBoxTree));
	FleetGeoBoxTree empty = {.allocator = *allocator};
	Entry	   *entries;
	int			all;

	if (tree == NULL)
		return NULL;
	*tree = empty;
	all = lay_out(tree, count);
	if (all == 0)
		return tree;
	tree->boxes = allocator->alloc(allocator->ctx, all * sizeof(FleetGeoBox));
	tree->items = allocator->alloc(allocator->ctx, count * sizeof(int32_t));
	entries = allocator->alloc(allocator->ctx, count * sizeof(Entry));
	if (tree->boxes == NULL || tree->items == NULL || entries == NULL)
	{
		if (entries != NULL)
			allocator->free(allocator->ctx, entries);
		fleet_geo_boxtree_free(tree);
		return NULL;
	}
	fill(tree, boxes, entries, count);
	allocator->free(allocator->ctx, entries);
	return tree;
}

static void
search_node(const FleetGeoBoxTree *tree, const FleetGeoBox *box, int level, int node,
			FleetGeoBoxVisit visit, void *ctx)
{
	const FleetGeoBox *boxes = tree->boxes + tree->first[level];
	int			end = (node + 1) * FANOUT;

	if (end > tree->count[level])
		end = tree->count[level];
	for (int i = node * FANOUT; i < end; i++)
	{
		if (!fleet_geo_box_meets(&boxes[i], box))
			continue;
		if (level == 0)
			visit(ctx, tree->items[i]);
		else
			search_node(tree, box, level - 1, i, visit, ctx);
	}
}

/* Call visit for each item whose box meets this one, in no order. */
void
fleet_geo_boxtree_search(const FleetGeoBoxTree *tree, const FleetGeoBox *box,
						 FleetGeoBoxVisit visit, void *ctx)
{
	if (tree->nlevel > 0)
		search_node(tree, box, tree->nlevel - 1, 0, visit, ctx);
}

void
fleet_geo_boxtree_free(FleetGeoBoxTree *tree)
{
	FleetGeoAllocator allocator = tree->allocator;

	if (tree->boxes != NULL)
		allocator.free(allocator.ctx, tree->boxes);
	if (tree->items != NULL)
		allocator.free(allocator.ctx, tree->items);
	allocator.free(allocator.ctx, tree);
}
