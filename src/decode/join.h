/*-------------------------------------------------------------------------
 *
 * join.h
 *	  From changes of tables to events.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/decode/join.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_DECODE_JOIN_H
#define FLEET_DECODE_JOIN_H

#include "decode/decode.h"

extern void fleet_decode_change(LogicalDecodingContext *ctx, FleetDecodeXact *xact,
								FleetDecodeTable *table, ReorderBufferChange *change);
extern void fleet_decode_let_go(LogicalDecodingContext *ctx, FleetDecodeXact *xact);

#endif							/* FLEET_DECODE_JOIN_H */
