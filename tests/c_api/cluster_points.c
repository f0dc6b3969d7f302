/* Clusters the iris flowers by their four measurements and compares the clusters with the species.
 *
 *     cc cluster_points.c $(pkg-config --cflags --libs hybridq) && ./a.out */
#include <hybridq.h>
#include <stdio.h>
#include <stdlib.h>

#include "iris.h"

static void check(hq_status status) {
    if (status == HQ_OK) return;
    fprintf(stderr, "%s\n", hq_last_error());
    exit(1);
}

int main(void) {
    float points[IRIS_ROWS * IRIS_FEATURES];
    for (int i = 0; i < IRIS_ROWS; i++)
        for (int f = 0; f < IRIS_FEATURES; f++) points[i * IRIS_FEATURES + f] = 0.1f * iris[i][f];

    hq_context *context = NULL;
    check(hq_context_new(NULL, &context));
    size_t suggested = 0;
    check(hq_suggest_clusters(context, points, IRIS_ROWS, IRIS_FEATURES, 6, 1, &suggested));

    hq_kmeans_options options = {0};
    options.struct_size = sizeof options;
    options.clusters = IRIS_CLASSES;
    options.seed = 1;
    hq_kmeans *kmeans = NULL;
    check(hq_kmeans_fit(context, &options, points, IRIS_ROWS, IRIS_FEATURES, &kmeans));
    hq_kmeans_info info = {0};
    info.struct_size = sizeof info;
    check(hq_kmeans_get_info(kmeans, &info));
    uint32_t labels[IRIS_ROWS];
    check(hq_kmeans_labels(kmeans, labels, IRIS_ROWS));

    int counts[IRIS_CLASSES][IRIS_CLASSES] = {{0}}, agree = 0;
    for (int i = 0; i < IRIS_ROWS; i++) counts[labels[i]][iris[i][IRIS_FEATURES]]++;
    for (int cluster = 0; cluster < IRIS_CLASSES; cluster++) {
        int most = 0;
        for (int species = 0; species < IRIS_CLASSES; species++)
            if (counts[cluster][species] > most) most = counts[cluster][species];
        agree += most;
        printf("cluster %d: %2d setosa, %2d versicolor, %2d virginica\n", cluster, counts[cluster][0], counts[cluster][1],
               counts[cluster][2]);
    }
    printf("%zu clusters suggested; inertia %.3f after %llu iterations; %d of %d flowers with their species\n", suggested,
           info.inertia, (unsigned long long)info.iterations, agree, IRIS_ROWS);
    hq_kmeans_free(kmeans);
    hq_context_free(context);
    /* The least sum of squares that three clusters of these points can have is 78.851. */
    return info.inertia < 79.0 && agree >= 130 ? 0 : 1;
}
