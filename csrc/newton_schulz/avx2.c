#define HQK_NAME(op) op##_avx2
#include "body.h"
