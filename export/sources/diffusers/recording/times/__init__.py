"""The times of a recorded pipeline: conversion to the times of a flow, and the network's times as functions of the
scheduler's."""
