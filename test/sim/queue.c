/*-------------------------------------------------------------------------
 *
 * queue.c
 *	  A bounded queue from the feed to one worker.
 *
 * It is short on purpose: at full speed the feed waits here, so that all
 * workers are at about the same simulated time.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/sim/queue.c
 *
 *-------------------------------------------------------------------------
 */
#include "sim.h"

void
sim_queue_init(SimQueue *queue)
{
	pthread_mutex_init(&queue->lock, NULL);
	pthread_cond_init(&queue->changed, NULL);
	queue->first = 0;
	queue->count = 0;
	queue->closed = false;
}

/* Append; waits while the queue is full. */
void
sim_queue_put(SimQueue *queue, const SimQueueItem *item)
{
	pthread_mutex_lock(&queue->lock);
	while (queue->count == SIM_QUEUE_LEN)
		pthread_cond_wait(&queue->changed, &queue->lock);
	queue->items[(queue->first + queue->count) % SIM_QUEUE_LEN] = *item;
	queue->count++;
	pthread_cond_signal(&queue->changed);
	pthread_mutex_unlock(&queue->lock);
}

/* Take the oldest; waits for one.  False when closed and empty. */
bool
sim_queue_get(SimQueue *queue, SimQueueItem *item)
{
	bool		found;

	pthread_mutex_lock(&queue->lock);
	while (queue->count == 0 && !queue->closed)
		pthread_cond_wait(&queue->changed, &queue->lock);
	found = queue->count > 0;
	if (found)
	{
		*item = queue->items[queue->first];
		queue->first = (queue->first + 1) % SIM_QUEUE_LEN;
		queue->count--;
		pthread_cond_signal(&queue->changed);
	}
	pthread_mutex_unlock(&queue->lock);
	return found;
}

/* No more will come. */
void
sim_queue_close(SimQueue *queue)
{
	pthread_mutex_lock(&queue->lock);
	queue->closed = true;
	pthread_cond_signal(&queue->changed);
	pthread_mutex_unlock(&queue->lock);
}
